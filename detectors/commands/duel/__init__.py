"""detectors duel"""
