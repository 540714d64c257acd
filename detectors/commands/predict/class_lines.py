"""What a trained classifier says about images, in the lines of Darknet's `classifier predict`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from detectors.commands.predict.image_classifier import Classification, ImageClassifier
from detectors.commands.predict.inputs import find_images
from detectors.data.images import ImageError
from detectors.tables import printable


def print_classes(classifier: ImageClassifier, places: list[Path]) -> None:
    """Prints the classes of every image. ValueError at the end if some could not be used."""
    left_out = 0
    for path in find_images(places):
        started = time.perf_counter()
        try:
            (classified,) = classifier.predict(path)
        except ImageError as error:
            left_out += 1
            sys.stderr.write(f"error: {error}\n")
            continue
        print("\n".join(class_lines(classified, time.perf_counter() - started)))
    if left_out:
        raise ValueError(f"images that could not be used and were left out, see above: {left_out}")


def class_lines(classified: Classification, seconds: float) -> Iterator[str]:
    """As predict_classifier of Darknet's examples/classifier.c prints them: `99.12%: seven`."""
    yield f"{classified.path}: Predicted in {seconds:.6f} seconds."
    for name, probability in zip(classified.names, classified.scores.tolist(), strict=True):
        yield f"{100 * probability:5.2f}%: {printable(name)}"
