"""What a trained classifier says about images, in the lines of Darknet's `classifier predict`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

from detectors.commands.predict.frames import Reading, read_frames
from detectors.commands.predict.image_classifier import Classification, ImageClassifier
from detectors.commands.predict.inputs import find_sources
from detectors.tables import printable


def print_classes(classifier: ImageClassifier, places: Sequence[str], reading: Reading) -> None:
    """Prints the classes of every image. ValueError at the end if some could not be used."""
    left_out = 0
    for frame in read_frames(find_sources(places), classifier.read, reading):
        if isinstance(frame, Exception):
            left_out += 1
            sys.stderr.write(f"error: {frame}\n")
            continue
        started = time.perf_counter()
        (classified,) = classifier.classify([frame])
        print("\n".join(class_lines(classified, time.perf_counter() - started)))
    if left_out:
        raise ValueError(f"inputs that could not be used and were left out, see above: {left_out}")


def class_lines(classified: Classification, seconds: float) -> Iterator[str]:
    """As predict_classifier of Darknet's examples/classifier.c prints them: `99.12%: seven`."""
    yield f"{classified.path}: Predicted in {seconds:.6f} seconds."
    for name, probability in zip(classified.names, classified.scores.tolist(), strict=True):
        yield f"{100 * probability:5.2f}%: {printable(name)}"
