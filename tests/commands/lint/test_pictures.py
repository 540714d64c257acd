"""Pictures of findings, checked pixel by pixel."""

import numpy as np
import pytest

from detectors.commands.lint import pictures
from detectors.commands.lint.findings import Finding
from detectors.data.problems import Problem
from tests.commands.lint.sets import split_of
from tests.data.files import write_image


@pytest.fixture
def draw(tmp_path):
    """Draws a finding about a box. The image is 120 x 60 px and has another box, (10, 10, 30, 40)."""
    path = str(tmp_path / "a.png")
    write_image(tmp_path / "a.png", (60, 120))
    images = pictures.split_images([split_of([[[10, 10, 30, 40]]], paths=[path], size=(60, 120))])
    return lambda box: pictures.picture(Finding("train", Problem("no-area", "a.xml", "", path, box)), images)


def red_extent(picture: np.ndarray) -> tuple[int, int, int, int]:
    """xyxy around all pixels in the red of the box."""
    rows, columns = np.nonzero((np.abs(picture.astype(int) - pictures.RED) < 3).all(2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_position_of_the_box(draw):
    """The image is enlarged four times: its longer side becomes 480. The label lies above the box."""
    picture = draw((50, 20, 80, 50))
    assert picture.shape == (240, 480, 3)
    x0, y0, x1, y1 = red_extent(picture)
    np.testing.assert_allclose((x0, x1, y1), (200, 320, 200), atol=2)
    assert y0 < 80
    white = (picture == 255).all(2)
    assert white[36:164, 36:124].sum() > 100  # the other box, dashed


def test_a_grey_margin_shows_boxes_beyond_the_image(draw):
    """The margin is as wide as the box needs, at most half of the image's side."""
    picture = draw((100, 20, 140, 50))
    assert picture.shape == (240, 480 + 80 + pictures.SEEN_PIXELS, 3)
    np.testing.assert_allclose(red_extent(picture)[2], 560, atol=2)
    assert (picture[:20, 490:] == pictures.BEYOND).all()
    assert draw((-5000, 20, 10, 50)).shape == (240, 480 + 240 + pictures.SEEN_PIXELS, 3)
    assert draw((10, -10, 20, 10)).shape == (240 + 40 + pictures.SEEN_PIXELS, 480, 3)


@pytest.mark.parametrize(
    "box", [(60, 30, 60, 30), (60, 40, 50, 30), (np.nan, 30, 60, np.inf), (-1e300, 0, 1e300, 5)]
)
def test_invalid_boxes_are_visible(draw, box):
    x0, y0, x1, y1 = red_extent(draw(box))
    assert x1 - x0 >= pictures.SEEN_PIXELS - 2
    assert y1 - y0 >= pictures.SEEN_PIXELS - 2


def test_a_point_is_drawn_as_a_square_around_it(draw):
    bottom = red_extent(draw((60, 30, 60, 30)))[3]
    np.testing.assert_allclose(bottom, 120 + pictures.SEEN_PIXELS / 2, atol=1)


def test_a_line_of_pixels_keeps_its_width(tmp_path):
    """480 / 1000 of one pixel is no pixel, and an image without pixels cannot be drawn."""
    path = str(tmp_path / "thin.png")
    write_image(tmp_path / "thin.png", (1, 1000))
    finding = Finding("train", Problem("unreadable", path, "", path, None))
    assert pictures.picture(finding, {}).shape == (1, 480, 3)


def test_findings_without_a_picture(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    for path in ("", str(tmp_path / "none.jpg"), str(tmp_path / "broken.jpg")):
        assert pictures.picture(Finding("train", Problem("broken-image", path, "", path)), {}) is None
