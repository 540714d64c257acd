"""detectors benchmark"""
