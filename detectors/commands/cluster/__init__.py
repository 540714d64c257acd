"""The `detectors cluster` command: finds anchors that fit a data set."""
