"""The detectors: backbones, necks, heads and the builders that wire them to the shared stages."""
