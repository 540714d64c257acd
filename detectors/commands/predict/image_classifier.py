"""A trained classifier with everything around it: reading, resizing and batching images, names of classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from detectors.commands.predict.frames import Frame, Reading, read_frames
from detectors.commands.predict.inputs import Images, given_sources
from detectors.data.augment.transforms import build_transform, no_augmentation
from detectors.data.images import read_image
from detectors.metrics.class_report import BEST_CLASSES
from detectors.training import assemble
from detectors.training.checkpoint import Checkpoint
from detectors.training.precision import backend_switches, network_precision


@dataclass(frozen=True)
class Classification:
    """What a classifier says about one image: its k best classes, the best one first."""

    path: str | None  # of the image, or clip.mp4#12; None for an array or a PIL image
    size: tuple[int, int]  # (height, width) of the image
    scores: np.ndarray  # (k,) float32 probabilities
    labels: np.ndarray  # (k,) int64, 0..C-1
    class_names: tuple[str, ...]  # (C) the classifier's classes: class_names[label]

    @property
    def names(self) -> list[str]:
        """The names of the k classes."""
        return [self.class_names[label] for label in self.labels]


class ImageClassifier:
    """A checkpoint's classifier, with the input size and the resizing of its training; made by `load`.

    `module` is its network, an nn.Module in evaluation mode.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device):
        self.device = device
        self.module, config = assemble.load_network(checkpoint, device)
        self.class_names = checkpoint.class_names
        self.trainer = config.trainer
        self.max_pixels = config.data.max_pixels
        self.transform = build_transform(
            augment=no_augmentation(),
            size=tuple(config.input.size),
            resize=config.input.resize,
            train=False,
        )

    def predict(
        self, images: Images, *, best: int = BEST_CLASSES, batch_size: int = 8
    ) -> list[Classification]:
        """One Classification for each image, in order.

        images: as Predictor.predict takes them. best: how many classes. batch_size: images that go through
        the network together. FileNotFoundError or ValueError names an image that cannot be used.
        """
        frames = read_frames(given_sources(images), self.read, Reading())
        classified = []
        while group := list(islice(frames, batch_size)):
            for error in filter(lambda frame: isinstance(frame, Exception), group):
                raise error
            classified += self.classify(group, best)
        return classified

    def read(self, path: str) -> np.ndarray:
        """(h, w, 3) uint8 RGB. ImageError names the file."""
        return read_image(path, self.max_pixels)

    @torch.no_grad()
    def classify(self, frames: Sequence[Frame], best: int = BEST_CLASSES) -> Iterator[Classification]:
        """predict() for one batch of images."""
        images = [frame.image for frame in frames]
        resized = [
            self.transform(image, np.zeros((0, 4)), np.zeros(0, np.int64), 0).image for image in images
        ]
        batch = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(self.device)
        with backend_switches(self.trainer), network_precision(self.trainer.precision, self.device):
            logits = self.module(batch)
        probabilities, labels = (part.cpu().numpy() for part in self.module.best_classes(logits, best))
        for number, frame in enumerate(frames):
            size = frame.image.shape[:2]
            yield Classification(frame.name, size, probabilities[number], labels[number], self.class_names)
