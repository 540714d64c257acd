"""detectors tree"""
