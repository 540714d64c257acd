"""detectors replay: repeats the step at which a run was no longer finite, and says what was so first."""
