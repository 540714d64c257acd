"""A confusion matrix as a picture: places, colours, sizes."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.training.confusion_picture import confusion_picture


def test_each_count_is_a_shaded_cell_in_its_place():
    matrix = np.array([[8, 0, 2], [0, 0, 0], [0, 5, 0]])
    picture = confusion_picture(matrix, ("cat", "dog"), "caption")
    cells = picture[-3 * 64 :, -3 * 64 :].reshape(3, 64, 3, 64, 3)[:, 4, :, 4]  # a corner without digits
    assert cells[0, 1].tolist() == cells[1, 0].tolist() == [255, 255, 255]
    assert cells[0, 0].tolist() == [67, 115, 187]  # .8 of the blue
    assert cells[0, 2].tolist() == [244, 214, 208]  # .2 of the red
    assert cells[2, 1].tolist() == [200, 50, 20]
    assert cells[2, 2].tolist() == [225, 225, 225]


@pytest.mark.parametrize("classes", [1, 20, 200])
def test_any_number_of_classes(classes):
    names = [f"class number {n} with a long name that does not fit into the margin" for n in range(classes)]
    picture = confusion_picture(np.ones((classes + 1, classes + 1), int), names, "caption")
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert max(picture.shape) < 18 * 201 + 300
