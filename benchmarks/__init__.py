"""Side by side: nnU-Net's own way against ours, alternating, in one process tree, with both sides' results compared."""
