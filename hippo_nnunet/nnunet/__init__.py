"""Every touchpoint with nnU-Net: registration, paths, API calls."""
