"""YOLOv2 and SSD, trainable side by side. Commands: train.py, evaluate.py and `python -m detectors.<verb>`; the map is in README.md."""
