"""Benchmarks of this package against nnU-Net, alternating, with the results of both sides compared."""
