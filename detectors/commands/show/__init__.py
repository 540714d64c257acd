"""detectors show"""
