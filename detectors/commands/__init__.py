"""One file or package per verb, with what only it needs; detectors/__main__.py lists them."""
