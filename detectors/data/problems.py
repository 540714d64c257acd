"""What can be wrong with a data set: one record for every finding, whoever finds it: a reader, the loader, or `detectors lint`.

An *error* makes a box or an image useless; data.on_error says whether it stops the training or is left out. A *warning* is only told.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

LISTED = 20  # findings of one kind that a message spells out; the rest is counted

logger = logging.getLogger(__name__)


class Kind(NamedTuple):
    """A kind of finding."""

    error: bool  # False: a warning
    title: str  # a plural, for counts and headings
    fix: str


class Problem(NamedTuple):
    """One finding."""

    kind: str  # a key of KINDS
    file: str  # what must be mended
    what: str  # where in the file and what is wrong: "object 3 RBC [540, 200, 540, 210]", "" where the kind says it all
    image: str = ""  # path of the image it is about, if there is one
    box: tuple[float, float, float, float] | None = (
        None  # xyxy, original frame, continuous edges: the box it is about
    )

    def __str__(self) -> str:
        return f"{self.file}: {self.what}" if self.what else self.file


KINDS: dict[str, Kind] = {
    "missing-image": Kind(
        True, "images that are not there", "restore them, or take their names out of the list of images"
    ),
    "broken-image": Kind(True, "images that cannot be decoded", "restore the files, or leave them out"),
    "size-differs": Kind(
        True, "images of another size than their annotation says", "annotate the image as it is stored"
    ),
    "missing-annotation": Kind(
        True, "annotations that are not there", "restore them, or take their names out of the list of images"
    ),
    "broken-annotation": Kind(True, "annotations that cannot be read", "restore the files"),
    "broken-entry": Kind(
        True, "images and categories whose entry in the annotation file is useless", "correct the entries"
    ),
    "broken-object": Kind(
        True, "objects whose name or coordinates are missing or senseless", "correct the objects in the files"
    ),
    "no-area": Kind(True, "boxes without area", "correct the coordinates, or remove the objects"),
    "unknown-class": Kind(
        True, "objects of unknown classes", "correct the names, or set data.class_names to all classes"
    ),
    # what only detectors/linting looks for
    "outside-image": Kind(
        True,
        "boxes wholly outside of their image",
        "correct them: training drops them, evaluation never finds them",
    ),
    "in-two-splits": Kind(
        False,
        "images in two splits",
        "take them out of one: an evaluation on training images measures nothing",
    ),
    "duplicate-image": Kind(False, "images twice in one split", "take one out"),
    "partly-outside": Kind(
        False,
        "boxes that reach out of their image",
        "none needed: training cuts them; VOC's coordinates begin at 1",
    ),
    "duplicate-box": Kind(
        False, "boxes that repeat another of the same class", "remove one: the other counts as never found"
    ),
    "two-classes": Kind(False, "boxes that repeat another of a different class", "decide for one class"),
    "tiny-box": Kind(
        False, "boxes below one pixel at the model's input", "a larger input.size, or remove them"
    ),
    "alike-classes": Kind(False, "class names that may mean the same", "give the class one name"),
    "absent-class": Kind(
        False, "classes without a box in a split", "split the images otherwise, or leave the class out"
    ),
    "rare-class": Kind(False, "classes with few boxes to learn from", "more images, or leave the class out"),
    "trailing-bytes": Kind(
        False,
        "files that go on after the end of their image",
        "none needed: save them anew, if the rest was lost",
    ),
    "grayscale": Kind(False, "gray images", "none needed"),
    "cmyk": Kind(False, "images in printing inks (CMYK)", "save them as RGB, if the colours look wrong"),
    "16-bit": Kind(
        False, "images with 16 bits per channel", "save them with 8 bits, spread over the range they use"
    ),
    "transparent": Kind(
        False, "images with transparency", "save them without, on the ground that they shall have"
    ),
    "rotated": Kind(
        False,
        "images with a camera's orientation tag",
        "see that the boxes fit the stored pixels, and remove the tag",
    ),
}


def settle(problems: Sequence[Problem], on_error: str) -> None:
    """What happens to findings that are errors: ValueError that lists them ("stop"), or one logged warning per kind ("skip").

    Whoever calls it with "skip" has left the faulty boxes and images out; nothing else may be lost.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f"data.on_error={on_error!r}: choose stop or skip")
    errors = [problem for problem in problems if KINDS[problem.kind].error]
    kinds = Counter(problem.kind for problem in errors)
    texts = [
        told(kind, [problem for problem in errors if problem.kind == kind]) for kind in KINDS if kinds[kind]
    ]
    if errors and on_error == "stop":
        fix = "data.on_error=skip leaves out what is faulty, and nothing else; detectors lint shows all findings"
        raise ValueError("\n".join([*texts, fix]))
    for text in texts:
        logger.warning("left out: %s", text)


def told(kind: str, problems: Sequence[Problem]) -> str:
    """The findings of one kind in words: count, the first LISTED, and the fix."""
    lines = [f"  {problem}" for problem in problems[:LISTED]]
    more = [f"  ... and {len(problems) - LISTED} more"] * (len(problems) > LISTED)
    return "\n".join([f"{KINDS[kind].title}: {len(problems)}", *lines, *more, f"  fix: {KINDS[kind].fix}"])
