"""Files of other programs into checkpoints of ours, which evaluate.py and predict take, and back."""
