"""Trains a detector: python train.py [overrides]. On a CPU in seconds: python train.py debug=fast.

The same as `detectors train`.
"""

from detectors.config.entry import program

main = program("train", "detectors.commands.train.main")

if __name__ == "__main__":
    main()
