"""A trained detector with everything around it: reading, framing and batching images, boxes in pixels."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detectors.commands.predict.checkpoint_model import CheckpointModel, Model
from detectors.commands.predict.darknet_files import DarknetFiles
from detectors.commands.predict.exported_model import ExportedModel
from detectors.commands.predict.frames import Frame, Read, Reading, read_ahead, read_frames
from detectors.commands.predict.image_classifier import ImageClassifier
from detectors.commands.predict.inputs import Images, given_sources
from detectors.commands.predict.merging import Boxes, merge_views
from detectors.commands.predict.views import WHOLE, View, ViewPlan
from detectors.config.composing import latest_or
from detectors.data.images import ImageError
from detectors.models.exported import EXPORT_SUFFIXES
from detectors.structures import Detections, ImageInfo
from detectors.training import assemble
from detectors.training import checkpoint as ckpt


@dataclass(frozen=True)
class Prediction:
    """What a detector finds in one image: n boxes, the best score first.

    >>> import numpy as np
    >>> from detectors import Prediction
    >>> box = np.array([[10.0, 20.0, 50.0, 90.0]], np.float32)
    >>> found = Prediction(None, (100, 80), box, np.array([0.9]), np.array([1]), ("cat", "dog"))
    >>> len(found), found.names
    (1, ['dog'])
    """

    path: str | None  # or address, or webcam:0; None for an array or a PIL image
    size: tuple[int, int]  # (height, width) of the image
    boxes_xyxy: np.ndarray  # (n, 4) float32 pixels of the image, clipped to it
    scores: np.ndarray  # (n,) float32
    labels: np.ndarray  # (n,) int64, 0..C-1
    class_names: tuple[str, ...]  # (C) the detector's classes: class_names[label]
    frame: int | None = None  # of a video, from 0; None for an image

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class name of each box."""
        return [self.class_names[label] for label in self.labels]

    @property
    def place(self) -> str | None:
        """What lines call the image: its path, or clip.mp4#12 for a frame."""
        return self.path if self.frame is None else f"{self.path}#{self.frame}"


class Outcome(NamedTuple):
    """A frame and what was found in it."""

    frame: Frame
    prediction: Prediction
    seconds: float  # of the network, its batch's divided by the images in it


class Prepared(NamedTuple):
    """A frame, and its views as the network takes them."""

    frame: Frame
    views: list[View]
    tensors: list[Tensor]  # (3, H, W) network input of each view
    infos: list[ImageInfo]


class Predictor:
    """Finds objects in images; made by `load`.

    module: its network, an nn.Module in evaluation mode; of an exported file, an ExportedDetector.

    >>> from detectors import load
    >>> detector = load("RUN")
    >>> for found in detector.predict("FOLDER", score=0.3):
    ...     print(found.path, found.size, found.boxes_xyxy.shape[1])
    FOLDER/a.png (60, 80) 4
    FOLDER/b.png (80, 60) 4
    """

    def __init__(self, model: Model):
        self.model = model
        self.module = model.module
        self.class_names = model.class_names

    def predict(
        self,
        images: Images,
        *,
        score: float = 0.3,
        batch_size: int = 8,
        tile: int | None = None,
        overlap: float = 0.2,
        augment: Sequence[str] = (),
        every: int = 1,
    ) -> list[Prediction]:
        """One Prediction for each image or frame of a video, in order.

        images: the path of an image or video, a folder, a pattern, an address, a .txt list of them, an array
        (h, w, 3) uint8 RGB, a PIL image, or an iterable of any of them.
        score: the lowest score that counts. batch_size: views that go through the network together.
        tile, overlap, augment: see ViewPlan. every: of so many frames of a video, the first.
        FileNotFoundError or ValueError names what cannot be used.
        """
        plan = ViewPlan(tile=tile, overlap=overlap, augment=tuple(augment))
        return list(self.stream(images, plan, score=score, batch_size=batch_size, every=every))

    def stream(
        self,
        images: Images,
        plan: ViewPlan = WHOLE,
        *,
        score: float = 0.3,
        batch_size: int = 8,
        every: int = 1,
    ) -> Iterator[Prediction]:
        """predict(), each Prediction as soon as its batch is through; also of cameras: webcam:0."""
        self.require_sizes(plan)
        frames = read_frames(given_sources(images), self.model.read, Reading(every))
        for outcome in self.outcomes(frames, plan, score=score, batch_size=batch_size):
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome.prediction

    def outcomes(
        self, frames: Iterable[Read], plan: ViewPlan, *, score: float, batch_size: int, ahead: int = 0
    ) -> Iterator[Outcome | ValueError | OSError]:
        """What is found in each frame; for a frame that cannot be used, its error.

        ahead: so many frames are read and prepared in another thread meanwhile.
        """
        prepared = self._prepared(frames, plan)
        prepared = read_ahead(prepared, ahead) if ahead else prepared
        group: list[Prepared | ValueError | OSError] = []
        views = 0
        with closing(prepared):
            for item in prepared:
                group.append(item)
                views += 0 if isinstance(item, Exception) else len(item.views)
                live = not isinstance(item, Exception) and item.frame.source.kind == "camera"
                if views >= batch_size or live:  # what a camera sees is shown at once
                    yield from self._outcomes_of(group, score, batch_size)
                    group = []
                    views = 0
            yield from self._outcomes_of(group, score, batch_size)

    def require_sizes(self, plan: ViewPlan) -> None:
        """ValueError if the network cannot take an input size of the plan."""
        for size in plan.sizes(self.model.size)[1:]:
            self.model.check_size(size)

    def _prepared(self, frames: Iterable[Read], plan: ViewPlan) -> Generator[Prepared | ValueError | OSError]:
        sizes = plan.sizes(self.model.size)
        for frame in frames:
            if isinstance(frame, Exception):
                yield frame
                continue
            try:
                yield self._prepare(frame, list(plan.views(frame.image.shape[:2], sizes)))
            except ImageError as error:
                yield error

    def _prepare(self, frame: Frame, views: list[View]) -> Prepared:
        """A ValueError about the image, or too little memory, becomes an ImageError that names it."""
        try:
            ready = [self.model.prepare(view.pixels(frame.image), view.size) for view in views]
        except (ValueError, MemoryError) as error:
            raise ImageError(frame.name or "the given image", str(error) or "out of memory") from error
        return Prepared(frame, views, [tensor for tensor, _ in ready], [info for _, info in ready])

    def _outcomes_of(
        self, group: Sequence[Prepared | ValueError | OSError], score: float, batch_size: int
    ) -> Iterator[Outcome | ValueError | OSError]:
        started = time.perf_counter()
        usable = [item for item in group if not isinstance(item, Exception)]
        boxes = iter(self._boxes_of(usable, score, batch_size))
        predictions = [self._prediction(item, next(boxes)) for item in usable]
        seconds = (time.perf_counter() - started) / max(1, len(usable))
        results = zip(usable, predictions, strict=True)
        for item in group:
            if isinstance(item, Exception):
                yield item
            else:
                prepared, prediction = next(results)
                yield Outcome(prepared.frame, prediction, seconds)

    def _boxes_of(self, items: Sequence[Prepared], score: float, batch_size: int) -> list[list[Boxes]]:
        """For each item, what each of its views shows, in the frame of the image."""
        units = [(n, m) for n, item in enumerate(items) for m in range(len(item.views))]
        by_size: dict[tuple[int, int], list[tuple[int, int]]] = {}  # a batch is of one input size
        for n, m in units:
            by_size.setdefault(items[n].views[m].size, []).append((n, m))
        boxes: list[list[Boxes]] = [[] for _ in items]
        for same in by_size.values():
            for start in range(0, len(same), batch_size):
                batch = same[start : start + batch_size]
                tensors = [items[n].tensors[m] for n, m in batch]
                detections = self._detect(tensors, [items[n].infos[m] for n, m in batch], score)
                for row, (n, m) in enumerate(batch):
                    image_size = items[n].frame.image.shape[:2]
                    boxes[n].append(_seen(detections.of_image(row), items[n].views[m], m, image_size))
        return boxes

    @torch.no_grad()
    def _detect(self, tensors: list[Tensor], infos: list[ImageInfo], score: float) -> Detections:
        batch = torch.stack(tensors).to(self.model.device)
        return self.model.detect(batch, infos, score).to("cpu")

    def _prediction(self, item: Prepared, parts: list[Boxes]) -> Prediction:
        found = parts[0] if len(parts) == 1 else merge_views(parts, self.model.nms_iou)
        return Prediction(
            item.frame.source.name,
            item.frame.image.shape[:2],
            found.boxes,
            found.scores,
            found.labels,
            self.class_names,
            item.frame.number,
        )


def _seen(detections: Detections, view: View, number: int, image_size: tuple[int, int]) -> Boxes:
    """The detections of a view, in the frame of the image."""
    boxes = view.to_image(detections.boxes.float().numpy())
    cut = view.cut_sides(boxes, image_size)
    scores, labels = detections.scores.float().numpy(), detections.labels.numpy()
    return Boxes(boxes, scores, labels, cut, np.full(len(labels), number))


def load(
    place: str | Path,
    weights: str | Path | None = None,
    *,
    names: str | Path | None = None,
    device: str = "auto",
) -> Predictor | ImageClassifier:
    """A trained detector: a run folder, a checkpoint, an exported file, or Darknet's cfg and weights. Of a
    classifier's run or checkpoint, an ImageClassifier, whose `predict` gives the best classes of each image.

    place: a run folder (its best.pt), latest for the newest run's, a .pt file, what `detectors export` wrote
    (.onnx, .pt2, .torchscript, which run on the CPU), or a .cfg file.
    weights, names: with a .cfg, its .weights and a file with one class name a line (default: "0", "1", ...).
    device: auto, cpu, cuda, or one GPU of several, such as cuda:1.
    FileNotFoundError or ValueError says what is missing or does not fit.

    >>> from detectors import load
    >>> detector = load("RUN/best.pt")
    >>> len(detector.class_names)
    6
    """
    chosen = assemble.choose_device(device)
    if Path(place).suffix == ".weights":
        raise ValueError(f"{place}: a weights file alone; give its cfg first: load('X.cfg', '{place}')")
    if Path(place).suffix == ".cfg":
        if weights is None:
            raise ValueError(f"{place}: a cfg alone; give its weights too: load('{place}', 'X.weights')")
        return Predictor(DarknetFiles(Path(place), Path(weights), names and Path(names), chosen))
    if weights is not None or names is not None:
        raise ValueError(f"{place}: weights and names belong to a .cfg file; a run or checkpoint has its own")
    if Path(place).suffix in EXPORT_SUFFIXES:
        require_cpu(device)
        return Predictor(ExportedModel(Path(place)))
    checkpoint = ckpt.load_checkpoint(ckpt.find_checkpoint(latest_or(Path(place))))
    if assemble.is_classifier(checkpoint):
        return ImageClassifier(checkpoint, chosen)
    return Predictor(CheckpointModel(checkpoint, chosen))


def require_cpu(device: str) -> None:
    """ValueError for another device than the one that exported files run on."""
    if device not in ("auto", "cpu"):
        raise ValueError(f"device={device}: exported files run on the CPU; predict the checkpoint on a GPU")
