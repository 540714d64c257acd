"""Converts weights of other programs to checkpoints, which evaluate.py and predict take, and back."""
