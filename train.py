"""Trains a detector: python train.py [overrides]. On a CPU in seconds: python train.py debug=fast.

The same as `detectors train`.
"""

from detectors.commands.train import main

if __name__ == "__main__":
    main()
