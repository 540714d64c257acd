"""What was found, as text: lines, JSON, CSV, COCO's results; or a VOC or Darknet file for each image."""

from __future__ import annotations

import csv
import io
import json
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from detectors.annotations import Annotations
from detectors.commands.predict.options import FormatChoice
from detectors.commands.predict.predictor import Prediction
from detectors.data.checks import box_faults, to_offsets
from detectors.data.class_names import COCO_CLASSES
from detectors.data.darknet_labels import darknet_line
from detectors.data.files import atomic_file, write_text
from detectors.data.voc_xml import annotation_xml
from detectors.metrics.coco import to_xywh
from detectors.tables import printable

# COCO's 80 categories have the ids 1 to 90, without these.
UNUSED_CATEGORIES = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
CSV_COLUMNS = ("image", "frame", "width", "height", "class", "score", "xmin", "ymin", "xmax", "ymax")


class ResultWriter(ABC):
    """One format."""

    @abstractmethod
    def add(self, prediction: Prediction, name: Path) -> None:
        """name: of the image among those of the same call, without suffix; no two share one."""

    def finish(self) -> None:
        """Writes what stands at the end."""
        return


class StreamWriter(ResultWriter):
    """A text that grows: on stdout, or in a file."""

    head = ""
    tail = ""
    between = ""

    def __init__(self, write: Callable[[str], object]):
        self._write = write
        self._records = 0
        self._write(self.head)

    @abstractmethod
    def records(self, prediction: Prediction, name: Path) -> Iterator[str]:
        """The texts of an image."""

    def add(self, prediction: Prediction, name: Path) -> None:
        for record in self.records(prediction, name):
            self._write(self.between * (self._records > 0) + record)
            self._records += 1

    def finish(self) -> None:
        self._write(self.tail)


class LinesWriter(StreamWriter):
    def records(self, prediction: Prediction, name: Path) -> Iterator[str]:
        yield from (f"{line}\n" for line in detection_lines(prediction))


class JsonWriter(StreamWriter):
    """A list with an object for each image, one a line."""

    head, between, tail = "[\n", ",\n", "\n]\n"

    def records(self, prediction: Prediction, name: Path) -> Iterator[str]:
        height, width = prediction.size
        rows = zip(
            prediction.names,
            prediction.labels.tolist(),
            prediction.scores.tolist(),
            prediction.boxes_xyxy.tolist(),
            strict=True,
        )
        found = [
            {"class": name, "label": label, "score": score, "box": box} for name, label, score, box in rows
        ]
        frame = {} if prediction.frame is None else {"frame": prediction.frame}
        content = {"image": prediction.path, **frame, "width": width, "height": height, "detections": found}
        yield json.dumps(content)


class CsvWriter(StreamWriter):
    """A row for each box."""

    head = ",".join(CSV_COLUMNS) + "\n"

    def records(self, prediction: Prediction, name: Path) -> Iterator[str]:
        height, width = prediction.size
        frame = "" if prediction.frame is None else prediction.frame
        boxes = prediction.boxes_xyxy.tolist()
        for name, score, box in zip(prediction.names, prediction.scores.tolist(), boxes, strict=True):
            row = io.StringIO()
            csv.writer(row, lineterminator="\n").writerow(
                [prediction.path, frame, width, height, name, score, *box]
            )
            yield row.getvalue()


class CocoResultsWriter(StreamWriter):
    """COCO's results. image_id: the number that the image's name is, such as 000000000139, else the name.

    category_id: COCO's own for its 80 classes, else 1 to C in the order of the classes.
    """

    head, between, tail = "[\n", ",\n", "\n]\n"

    def records(self, prediction: Prediction, name: Path) -> Iterator[str]:
        text = str(name)
        image_id = int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else text
        ids = category_ids_of(prediction.class_names)
        columns = (prediction.labels, to_xywh(prediction.boxes_xyxy.astype(np.float64)), prediction.scores)
        for label, xywh, score in zip(*(column.tolist() for column in columns), strict=True):
            entry = {"image_id": image_id, "category_id": ids[label], "bbox": xywh, "score": score}
            yield json.dumps(entry)


def category_ids_of(class_names: tuple[str, ...]) -> list[int]:
    if class_names == COCO_CLASSES:
        return [number for number in range(1, 91) if number not in UNUSED_CATEGORIES]
    return list(range(1, len(class_names) + 1))


class CountWriter(StreamWriter):
    """How many of each class each image holds; the sums of all at the end."""

    def __init__(self, write: Callable[[str], object]):
        super().__init__(write)
        self._sums: Counter[str] = Counter()
        self._images = 0

    def records(self, prediction: Prediction, name: Path) -> Iterator[str]:
        counts = Counter(prediction.names)
        self._sums.update(counts)
        self._images += 1
        yield f"{prediction.place}: {_listed(counts)}\n"

    def finish(self) -> None:
        self._write(f"in all {self._images:,} images: {_listed(self._sums)}\n")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {printable(name)}" for name, count in counts.most_common()) or "nothing"


class VocXmlWriter(ResultWriter):
    """NAME.xml for each image, as VOC's data sets have it; boxes of at most a pixel are left out."""

    def __init__(self, folder: Path):
        self.folder = folder

    def add(self, prediction: Prediction, name: Path) -> None:
        boxes = prediction.boxes_xyxy.astype(np.float64)
        rows = np.flatnonzero(box_faults(boxes - [-1, -1, 0, 0]) == "")
        one = _as_annotations(prediction, rows)
        file_name = Path(prediction.place or name).name
        write_text(self.folder / f"{name}.xml", annotation_xml(one, 0, file_name))


class DarknetLabelWriter(ResultWriter):
    """NAME.txt for each image, as Darknet's data sets have it: class, centre and size as fractions."""

    def __init__(self, folder: Path):
        self.folder = folder

    def add(self, prediction: Prediction, name: Path) -> None:
        boxes = zip(prediction.labels.tolist(), prediction.boxes_xyxy, strict=True)
        lines = [f"{darknet_line(label, box, prediction.size)}\n" for label, box in boxes]
        write_text(self.folder / f"{name}.txt", "".join(lines))


def _as_annotations(prediction: Prediction, rows: np.ndarray) -> Annotations:
    """The detections of one image as if they were its ground truth."""
    boxes = prediction.boxes_xyxy[rows].astype(np.float64)
    return Annotations(
        class_names=prediction.class_names,
        image_ids=[prediction.place or ""],
        paths=[prediction.place or ""],
        sizes=np.array([prediction.size], dtype=np.int64),
        offsets=to_offsets([len(rows)]),
        boxes_original=boxes,
        labels=prediction.labels[rows],
        difficult=np.zeros(len(rows), dtype=bool),
        crowd=np.zeros(len(rows), dtype=bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        category_ids=tuple(category_ids_of(prediction.class_names)),
    )


STREAM_WRITERS = {"lines": LinesWriter, "json": JsonWriter, "csv": CsvWriter, "coco": CocoResultsWriter}
FOLDER_WRITERS = {"voc": VocXmlWriter, "darknet": DarknetLabelWriter}


@contextmanager
def result_writers(
    formats: Sequence[FormatChoice], count: bool, folder: Path
) -> Iterator[list[ResultWriter]]:
    """Writers for the chosen formats. Their files appear at the end; after an error there are none.

    count: whether a CountWriter prints. folder: below it lie the folders of formats without a place.
    """
    with ExitStack() as files:
        writers: list[ResultWriter] = [CountWriter(sys.stdout.write)] if count else []
        for name, place in formats:
            if name in FOLDER_WRITERS:
                writers.append(FOLDER_WRITERS[name](place or folder / name))
            elif place is None:
                writers.append(STREAM_WRITERS[name](sys.stdout.write))
            else:
                file = files.enter_context(atomic_file(place))
                writers.append(STREAM_WRITERS[name](partial(_write_utf8, file)))
        yield writers
        for writer in writers:
            writer.finish()


def _write_utf8(file: BinaryIO, text: str) -> None:
    file.write(text.encode("utf-8", "surrogateescape"))


def detection_lines(prediction: Prediction) -> Iterator[str]:
    """`image: class score xmin ymin xmax ymax`, pixels of the image."""
    boxes = prediction.boxes_xyxy.tolist()
    for name, score, box in zip(prediction.names, prediction.scores.tolist(), boxes, strict=True):
        yield f"{prediction.place}: {printable(name)} {score:.3f} " + " ".join(f"{edge:.1f}" for edge in box)


def detect_lines(prediction: Prediction, seconds: float) -> Iterator[str]:
    """What Darknet's `detect` prints, the best detection first: `dog: 82%`."""
    yield f"{prediction.place}: Predicted in {seconds:.6f} seconds."
    for name, score in zip(prediction.names, prediction.scores.tolist(), strict=True):
        yield f"{printable(name)}: {100 * score:.0f}%"
