"""Attention U-Nets and comparable baselines as a plugin for nnU-Net v2."""

__version__ = "0.1.0"
