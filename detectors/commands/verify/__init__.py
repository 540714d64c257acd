"""Recordings of other programs' numbers, read from their files and held against what this code computes."""
