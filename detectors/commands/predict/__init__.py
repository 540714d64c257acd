"""detectors predict"""
