"""Letterbox and stretch: sizes, offsets, and the colour of the bars."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.data.augment.fitting import letterbox, resize, stretch


@pytest.mark.parametrize(
    ("original", "size", "fitted", "top_left"),
    [
        ((60, 80), (160, 160), (120, 160), (20, 0)),
        ((80, 60), (160, 160), (160, 120), (0, 20)),
        ((100, 301), (160, 160), (53, 160), (53, 0)),  # 160 * 100 / 301 = 53.2, rounded down as in Darknet
        ((9000, 3), (64, 64), (64, 1), (0, 31)),  # never less than a pixel
    ],
)
def test_a_letterbox_keeps_the_aspect_ratio_and_is_centred(original, size, fitted, top_left):
    fit = letterbox(original, size)
    assert (fit.size, fit.top_left) == (fitted, top_left)


def test_stretch_fills_the_input():
    fit = stretch((60, 80), (160, 320))
    assert (fit.size, fit.top_left) == ((160, 320), (0, 0))


def test_the_bars_are_darknets_grey():
    """Darknet fills with .5, which is 127.5 of 255; whole levels here are 127."""
    image = np.full((60, 80, 3), 200, np.uint8)
    framed = resize(image, letterbox((60, 80), (160, 160)), (160, 160))
    assert (framed[:20] == 127).all() and (framed[-20:] == 127).all()
    assert (framed[20:140] == 200).all()
