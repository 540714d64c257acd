"""Boxes and their labels on images; images with captions and in grids"""
