"""A trained detector with everything around it: reading, framing and batching images, boxes in pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detectors.commands.predict.darknet_files import DarknetFiles
from detectors.commands.predict.image_classifier import ImageClassifier
from detectors.commands.predict.inputs import Given, Images, given_images
from detectors.config.schema import latest_or
from detectors.data.augment.transforms import build_transform, no_augmentation
from detectors.data.images import ImageError, read_image
from detectors.structures import Detections, HeadOutputs, ImageInfo
from detectors.training import assemble
from detectors.training import checkpoint as ckpt
from detectors.training.precision import backend_switches, network_precision


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

    path: str | None  # of the image; None for an array or a PIL image
    size: tuple[int, int]  # (height, width) of the image
    boxes_xyxy: np.ndarray  # (n, 4) float32 pixels of the image, clipped to it
    scores: np.ndarray  # (n,) float32
    labels: np.ndarray  # (n,) int64, 0..C-1
    class_names: tuple[str, ...]  # (C) the detector's classes: class_names[label]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class name of each box."""
        return [self.class_names[label] for label in self.labels]


class Model(Protocol):
    """A network and the way images go into it and boxes come out of it."""

    module: nn.Module
    class_names: tuple[str, ...]
    device: torch.device

    def read(self, path: str) -> np.ndarray: ...  # (h, w, 3) uint8 RGB; ImageError

    def prepare(self, image: np.ndarray) -> tuple[Tensor, ImageInfo]: ...  # (3, H, W) network input

    def detect(self, batch: Tensor, infos: list[ImageInfo], score: float) -> Detections: ...  # original frame


class CheckpointModel:
    """A checkpoint's detector, with the input size and the framing (letterbox or stretch) of its training."""

    def __init__(self, checkpoint: ckpt.Checkpoint, device: torch.device):
        self.module, config = assemble.load_detector(checkpoint, device)
        self.averaged = bool(checkpoint.ema)  # whether these are averaged weights, see trainer.ema_decay
        self.class_names = checkpoint.class_names
        self.device = device
        self.trainer = config.trainer
        self.data = config.data
        self.size = tuple(config.input.size)
        self.resize = config.input.resize
        self.max_pixels = config.data.max_pixels
        self.transform = build_transform(
            augment=no_augmentation(), size=self.size, resize=self.resize, train=False
        )

    def read(self, path: str) -> np.ndarray:
        return read_image(path, self.max_pixels)

    def prepare(self, image: np.ndarray) -> tuple[Tensor, ImageInfo]:
        framed = self.transform(image, np.zeros((0, 4)), np.zeros(0, np.int64), 0)
        height, width = image.shape[:2]
        # A letterbox keeps one row or column of a side that would vanish; nothing can be found in it.
        if self.resize == "letterbox" and min(height, width) * min(framed.scale_xy) < 1:
            rows, columns = self.size
            raise ValueError(
                f"an image of {width} x {height} pixels has no room in a letterbox of {columns} x {rows}; "
                "crop it"
            )
        info = ImageInfo(0, "", "", image.shape[:2], framed.scale_xy, framed.shift_xy)
        return torch.from_numpy(framed.image).permute(2, 0, 1), info

    def outputs(self, batch: Tensor) -> HeadOutputs:
        with backend_switches(self.trainer), network_precision(self.trainer.precision, self.device):
            return self.module(batch)

    def detect(self, batch: Tensor, infos: list[ImageInfo], score: float) -> Detections:
        return self.module.detections(self.outputs(batch), infos, self.size).above(score)


class Framed(NamedTuple):
    """An image as the network takes it."""

    path: str | None  # of the image; None for an array or a PIL image
    size: tuple[int, int]  # (height, width) of the image
    tensor: Tensor  # (3, H, W) network input
    info: ImageInfo


class Predictor:
    """Finds objects in images; made by `load`. `module` is its network, an nn.Module in evaluation mode.

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

    def predict(self, images: Images, *, score: float = 0.3, batch_size: int = 8) -> list[Prediction]:
        """One Prediction for each image, in order.

        images: a path, a folder, an array (h, w, 3) uint8 RGB, a PIL image, or an iterable of any of them.
        score: the lowest score that counts. batch_size: images that go through the network together.
        FileNotFoundError or ValueError names an image that cannot be used.
        """
        framed = self._framed(given_images(images))
        predictions = []
        while group := list(islice(framed, batch_size)):
            predictions += self._predict_batch(group, score)
        return predictions

    def predict_image(self, image: np.ndarray, *, path: str | None = None, score: float = 0.3) -> Prediction:
        """The Prediction for one image (h, w, 3) uint8 RGB. path: where it was read from."""
        (prediction,) = self._predict_batch([self._frame(path, image)], score)
        return prediction

    def _framed(self, images: Iterator[Given]) -> Iterator[Framed]:
        for path, image in images:
            yield self._frame(path, self.model.read(path) if image is None else image)

    def _frame(self, path: str | None, image: np.ndarray) -> Framed:
        """A ValueError about the image, or too little memory, becomes an ImageError that names it."""
        try:
            tensor, info = self.model.prepare(image)
        except (ValueError, MemoryError) as error:
            raise ImageError(path or "the given image", str(error) or "out of memory") from error
        return Framed(path, image.shape[:2], tensor, info)

    @torch.no_grad()
    def _predict_batch(self, group: Sequence[Framed], score: float) -> Iterator[Prediction]:
        batch = torch.stack([framed.tensor for framed in group]).to(self.model.device)
        detections = self.model.detect(batch, [framed.info for framed in group], score).to("cpu")
        for number, framed in enumerate(group):
            one = detections.of_image(number)
            yield Prediction(
                framed.path,
                framed.size,
                one.boxes.float().numpy(),
                one.scores.float().numpy(),
                one.labels.numpy(),
                self.class_names,
            )


def load(
    place: str | Path,
    weights: str | Path | None = None,
    *,
    names: str | Path | None = None,
    device: str = "auto",
) -> Predictor | ImageClassifier:
    """A trained detector: a run folder, a checkpoint, or Darknet's cfg and weights. Of a classifier's run or
    checkpoint, an ImageClassifier, whose `predict` gives the best classes of each image.

    place: a run folder (its best.pt), latest for the newest run's, a .pt file, or a .cfg file.
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
    checkpoint = ckpt.load_checkpoint(ckpt.find_checkpoint(latest_or(Path(place))))
    if assemble.is_classifier(checkpoint):
        return ImageClassifier(checkpoint, chosen)
    return Predictor(CheckpointModel(checkpoint, chosen))
