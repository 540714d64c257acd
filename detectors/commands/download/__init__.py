"""The `detectors download` command: where the archives of data sets are, how to fetch and unpack them."""
