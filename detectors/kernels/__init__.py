"""Fused operations: one file each, with its formula, its reference in PyTorch and its Triton version."""
