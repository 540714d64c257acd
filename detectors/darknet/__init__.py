"""Darknet's files: cfg and weights files, its image decoding and resizing."""
