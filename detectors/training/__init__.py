"""The training loop, the task that it runs, and what both need."""
