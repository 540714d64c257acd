"""The `detectors lint` command: checks a data set and reports problems and statistics."""
