"""From an image and its boxes to the model's input: augmentation and fitting."""
