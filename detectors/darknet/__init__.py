"""Files of other programs: their parameters and ours."""
