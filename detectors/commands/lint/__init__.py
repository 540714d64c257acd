"""What `detectors lint` looks at and how it tells it."""
