"""TensorBoard's event files: curves, pictures, texts and the HPARAMS table of a run.

PyTorch's SummaryWriter writes in a thread of its own, which dies with a traceback on a full disk and takes
all later points with it. Here an event is in the file, or there was an error, when the call returns.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import summary

from detectors.data.files import Appender
from detectors.drawing.framed_images import png_bytes
from detectors.metrics.pr_curves import SCORE_THRESHOLDS, PrCurve
from detectors.training.crc32c import masked_crc32c
from detectors.training.tracking import Backend, Setting

PREFIX = "events.out.tfevents."
BINS = 64  # of a histogram


class TensorBoardLog(Backend):
    """Writes a new event file into `folder`.

    first_step: the first step that will be written; for a resume, the checkpoint's step + 1. TensorBoard then
    hides what earlier processes wrote in this folder from that step on, so that no curve runs back over
    itself.
    """

    name = "tensorboard"

    def __init__(self, folder: Path | str, *, first_step: int = 0):
        self._file = _EventFile(Path(folder))
        self._file.write(Event(file_version="brain.Event:2"))
        self._file.write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._add([summary.scalar(tag, value) for tag, value in values.items()], step)

    def images(self, tag: str, images: Sequence[np.ndarray], step: int) -> None:
        for n, image in enumerate(images):
            self._add([_image_summary(f"{tag}/{n}", image)], step)

    def text(self, tag: str, text: str, step: int) -> None:
        block = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown for fixed width
        self._add([summary.text(tag, block)], step)

    def pr_curves(self, curves: Mapping[str, PrCurve], step: int) -> None:
        """TensorBoard's thresholds are evenly spaced, too. There are no true negatives: it gets zeros."""
        self._add([_pr_summary(tag, curve) for tag, curve in curves.items()], step)

    def histograms(self, values: Mapping[str, np.ndarray], step: int) -> None:
        full = {tag: numbers for tag, numbers in values.items() if numbers.size}
        self._add([summary.histogram(tag, numbers, BINS) for tag, numbers in full.items()], step)

    def hparams(self, settings: Mapping[str, Setting], metrics: Sequence[str]) -> None:
        """PyTorch's add_hparams would open a second run folder and log the metrics again.

        TensorBoard sorts the columns by name and shows the first five, so that names get numbers, which their
        headings leave out.
        """
        numbered = {f"{n:02d} {name}": value for n, (name, value) in enumerate(settings.items(), 1)}
        experiment, start, self._end = summary.hparams(numbered, dict.fromkeys(metrics, 0.0))
        plugin = experiment.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin.content)
        for column in content.experiment.hparam_infos:
            column.display_name = column.name.partition(" ")[2]
        plugin.content = content.SerializeToString()
        self._add([experiment, start], 0)

    def close(self, finished: bool) -> None:
        if finished:
            self._add([self._end], 0)
        self._file.close()

    def _add(self, summaries: Sequence[Summary], step: int) -> None:
        values = [value for each in summaries for value in each.value]
        self._file.write(Event(step=step, summary=Summary(value=values)))


def _image_summary(tag: str, image: np.ndarray) -> Summary:
    """PyTorch's own takes five times as long."""
    height, width, _ = image.shape
    picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png_bytes(image))
    return Summary(value=[Summary.Value(tag=tag, image=picture)])


def _pr_summary(tag: str, curve: PrCurve) -> Summary:
    counts = (curve.true_positives, curve.false_positives, np.zeros(len(curve.recall)), curve.false_negatives)
    return summary.pr_curve_raw(
        tag, *counts, curve.precision, curve.recall, num_thresholds=len(SCORE_THRESHOLDS)
    )


class _EventFile:
    """A new file of TensorBoard's records. After an error, the next record can succeed."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names, which begin with the second.
        numbers = [path.name.removeprefix(PREFIX).split(".")[0] for path in folder.glob(f"{PREFIX}*")]
        second = max([int(time.time()), *(int(number) + 1 for number in numbers if number.isdecimal())])
        self._file = Appender(folder / f"{PREFIX}{second:010d}.{socket.gethostname()}.{os.getpid()}")

    def write(self, event: Event) -> None:
        event.wall_time = time.time()
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        crcs = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
        self._file.append(length + crcs[0] + content + crcs[1])

    def close(self) -> None:
        self._file.close()
