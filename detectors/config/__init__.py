"""From yaml and command line to checked settings and built objects."""
