"""The `detectors find-rate` command: the learning rate at which a training learns fastest."""
