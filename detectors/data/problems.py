"""What can be wrong with a data set: the findings of the readers, the loader and `detectors lint`.

An *error* makes a box or an image unusable; data.on_error says whether it stops the training or is left out.
A *warning* is only reported.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

LISTED = 20  # lines of a long list that a message prints; the rest is counted

logger = logging.getLogger(__name__)


class Kind(NamedTuple):
    """A kind of finding."""

    error: bool  # False: a warning
    title: str  # a plural, for counts and headings
    fix: str  # what the user can do about it


class Problem(NamedTuple):
    """One finding."""

    kind: str  # a key of KINDS
    file: str  # the file to fix
    # Where in the file, and what is wrong: "object 3 RBC [540, 200, 540, 210]"; "" if the kind says it all.
    what: str
    image: str = ""  # path of the image concerned, if any
    # The box concerned, if any: xyxy, original frame, continuous edges.
    box: tuple[float, float, float, float] | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.what}" if self.what else self.file


KINDS: dict[str, Kind] = {
    "missing-image": Kind(
        True,
        "images that are not there",
        "restore them, or correct or remove their names in the list of images",
    ),
    "broken-image": Kind(True, "images that cannot be decoded", "restore the files, or leave them out"),
    "too-large": Kind(
        True, "images with more pixels than data.max_pixels", "make them smaller, or raise data.max_pixels"
    ),
    "outside-folder": Kind(
        True,
        "names that lead out of the folder of their images",
        "move the files into the folder, and write their names relative to it",
    ),
    "size-differs": Kind(
        True, "images whose size differs from their annotation", "annotate the image as it is stored"
    ),
    "missing-annotation": Kind(
        True,
        "annotations that are not there",
        "restore them, or correct or remove their names in the list of images",
    ),
    "broken-annotation": Kind(True, "annotations that cannot be read", "restore the files"),
    "broken-entry": Kind(
        True, "images and categories with a faulty entry in the annotation file", "correct the entries"
    ),
    "broken-object": Kind(
        True, "objects whose name or coordinates are missing or invalid", "correct the objects in the files"
    ),
    "no-area": Kind(True, "boxes without area", "correct the coordinates, or remove the objects"),
    "unknown-class": Kind(
        True, "objects of unknown classes", "correct the names, or add the classes to data.class_names"
    ),
    # Only `detectors lint` looks for the rest.
    "outside-image": Kind(
        True,
        "boxes wholly outside their image",
        "correct them: training drops them, and evaluation counts them as missed",
    ),
    "missing-label": Kind(
        False,
        "images without a label file",
        "none needed if they show no object: training takes them for such images",
    ),
    "empty-label": Kind(False, "images with an empty label file", "none needed if they show no object"),
    "polygon-label": Kind(
        False,
        "label files with polygons or keypoints",
        "none needed: the bounding boxes of polygons are used; with kpt_shape in data.yaml, the boxes",
    ),
    "in-two-splits": Kind(
        False,
        "images in two splits",
        "remove them from one split: an evaluation on training images measures nothing",
    ),
    "duplicate-image": Kind(False, "images twice in one split", "remove one"),
    "partly-outside": Kind(
        False,
        "boxes that reach out of their image",
        "none needed: training clips them; VOC's coordinates start at 1",
    ),
    "duplicate-box": Kind(
        False, "boxes that repeat another of the same class", "remove one: the other counts as missed"
    ),
    "two-classes": Kind(False, "boxes that repeat another of a different class", "choose one class"),
    "tiny-box": Kind(
        False, "boxes below one pixel at the model's input", "increase input.size, or remove them"
    ),
    "alike-classes": Kind(False, "class names that may mean the same", "use one name for the class"),
    "absent-class": Kind(
        False, "classes without a box in a split", "split the images differently, or leave the class out"
    ),
    "empty-class": Kind(
        False,
        "classes without a box in any split",
        "each is one class too many for the model: list only the others in data.class_names",
    ),
    "rare-class": Kind(False, "classes with few boxes to learn from", "add images, or leave the class out"),
    "trailing-bytes": Kind(
        False,
        "files with data after the end of their image",
        "none needed; save the image again if part of it is missing",
    ),
    "grayscale": Kind(False, "gray images", "none needed"),
    "cmyk": Kind(False, "images in CMYK", "save them as RGB if the colours look wrong"),
    "16-bit": Kind(
        False, "images with 16 bits per channel", "save them with 8 bits, scaled to the range they use"
    ),
    "transparent": Kind(
        False, "images with transparency", "save them without it, on the background they should have"
    ),
    "rotated": Kind(
        False,
        "images with a camera's orientation tag",
        "check that the boxes fit the stored pixels, and remove the tag",
    ),
}


def raise_or_log(problems: Sequence[Problem], on_error: str) -> None:
    """Raise a ValueError that lists the errors ("stop"), or log one warning per kind of error ("skip").

    Before calling it with "skip", leave out the faulty boxes and images, and nothing else.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f"data.on_error={on_error!r}: choose stop or skip")
    errors = [problem for problem in problems if KINDS[problem.kind].error]
    by_kind: dict[str, list[Problem]] = {kind: [] for kind in KINDS}
    for problem in errors:
        by_kind[problem.kind].append(problem)
    texts = [_describe(kind, group) for kind, group in by_kind.items() if group]
    if errors and on_error == "stop":
        fix = "data.on_error=skip leaves out only what is faulty; detectors lint shows all findings"
        raise ValueError("\n".join([*texts, fix]))
    for text in texts:
        logger.warning("left out: %s", text)


def _describe(kind: str, problems: Sequence[Problem]) -> str:
    """The findings of one kind: their number, the first LISTED, and the fix."""
    lines = [f"{KINDS[kind].title}: {len(problems)}"]
    lines += [f"  {line}" for line in shortened(problems)]
    lines.append(f"  fix: {KINDS[kind].fix}")
    return "\n".join(lines)


def shortened(items: Sequence[object]) -> list[str]:
    """The first LISTED items as lines, and how many more there are."""
    lines = [str(item) for item in items[:LISTED]]
    return lines if len(items) <= LISTED else [*lines, f"... and {len(items) - LISTED} more"]
