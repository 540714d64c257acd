"""Evaluates a checkpoint: python evaluate.py run=RUN_OR_CHECKPOINT [split=test].

The same as `detectors evaluate`.
"""

from detectors.config.entry import program

main = program("evaluate", "detectors.commands.evaluate.main")

if __name__ == "__main__":
    main()
