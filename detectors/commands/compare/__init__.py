"""detectors compare"""
