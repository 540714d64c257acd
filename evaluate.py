"""Evaluates a checkpoint: python evaluate.py run=RUN_OR_CHECKPOINT [split=test].

The same as `detectors evaluate`.
"""

from detectors.commands.evaluate import main

if __name__ == "__main__":
    main()
