"""How much of the image each output of a detector can see, and how much of it counts."""
