"""What a new run starts from: weights of other runs and other programs, by name, size and class."""
