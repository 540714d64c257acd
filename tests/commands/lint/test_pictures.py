import numpy as np
import pytest

from detectors.commands.lint import pictures
from detectors.commands.lint.findings import Finding
from detectors.data.problems import Problem
from tests.commands.lint.sets import split_of
from tests.data.files import write_image


@pytest.fixture
def drawn(tmp_path):
    """A function: the picture of a box in an image of 60 x 120 that has one more box, (10, 10, 30, 40)."""
    path = str(tmp_path / "a.png")
    write_image(tmp_path / "a.png", (60, 120))
    places = pictures.places_of([split_of([[[10, 10, 30, 40]]], paths=[path], size=(60, 120))])
    return lambda box: pictures.picture(Finding("train", Problem("no-area", "a.xml", "", path, box)), places)


def red(picture: np.ndarray) -> tuple[int, int, int, int]:
    """xyxy around all that is of the frame's red."""
    rows, columns = np.nonzero((np.abs(picture.astype(int) - pictures.RED) < 3).all(2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_the_box_is_where_it_should_be(drawn):
    """Four times as large: the longer side becomes 480. The plate with the name lies above the box."""
    picture = drawn((50, 20, 80, 50))
    assert picture.shape == (240, 480, 3)
    x0, y0, x1, y1 = red(picture)
    np.testing.assert_allclose((x0, x1, y1), (200, 320, 200), atol=2)
    assert y0 < 80
    white = (picture == 255).all(2)
    assert white[36:164, 36:124].sum() > 100  # the other box, dashed


def test_a_box_out_of_the_image_is_seen_on_grey(drawn):
    """The margin is as wide as the box reaches, up to half of the image's side."""
    picture = drawn((100, 20, 140, 50))
    assert picture.shape == (240, 480 + 80 + pictures.SEEN_PIXELS, 3)
    np.testing.assert_allclose(red(picture)[2], 560, atol=2)
    assert (picture[:20, 490:] == pictures.BEYOND).all()
    assert drawn((-5000, 20, 10, 50)).shape == (240, 480 + 240 + pictures.SEEN_PIXELS, 3)
    assert drawn((10, -10, 20, 10)).shape == (240 + 40 + pictures.SEEN_PIXELS, 480, 3)


@pytest.mark.parametrize(
    "box", [(60, 30, 60, 30), (60, 40, 50, 30), (np.nan, 30, 60, np.inf), (-1e300, 0, 1e300, 5)]
)
def test_boxes_that_are_none_are_drawn_nevertheless(drawn, box):
    x0, y0, x1, y1 = red(drawn(box))
    assert x1 - x0 >= pictures.SEEN_PIXELS - 2
    assert y1 - y0 >= pictures.SEEN_PIXELS - 2


def test_a_point_is_drawn_as_a_square_around_it(drawn):
    np.testing.assert_allclose(red(drawn((60, 30, 60, 30)))[3], 120 + pictures.SEEN_PIXELS / 2, atol=1)


def test_what_has_no_picture(drawn, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    for path in ("", str(tmp_path / "none.jpg"), str(tmp_path / "broken.jpg")):
        assert pictures.picture(Finding("train", Problem("broken-image", path, "", path)), {}) is None
