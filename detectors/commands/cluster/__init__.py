"""detectors cluster"""
