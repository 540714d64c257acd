"""Compares recorded results of other programs with what this code computes."""
