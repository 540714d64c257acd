"""detectors browse"""
