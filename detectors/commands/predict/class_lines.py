"""What a trained classifier says about images, in the lines of Darknet's `classifier predict`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from detectors.commands.predict.inputs import find_images
from detectors.data.augment.transforms import build_transform, no_augmentation
from detectors.data.images import ImageError, read_image
from detectors.metrics.class_report import BEST_CLASSES
from detectors.tables import printable
from detectors.training import assemble
from detectors.training.checkpoint import Checkpoint
from detectors.training.precision import backend_switches, network_precision


class ClassifierFiles:
    """A checkpoint's classifier, with the input size and the resizing of its training."""

    def __init__(self, checkpoint: Checkpoint, device: str):
        self.device = assemble.choose_device(device)
        self.module, config = assemble.load_network(checkpoint, self.device)
        self.class_names = checkpoint.class_names
        self.trainer = config.trainer
        self.max_pixels = config.data.max_pixels
        self.transform = build_transform(
            augment=no_augmentation(),
            size=tuple(config.input.size),
            resize=config.input.resize,
            train=False,
        )

    @torch.no_grad()
    def best_classes(self, path: str) -> list[tuple[str, float]]:
        """The best five classes of an image file, and their probabilities. ImageError names the file."""
        image = read_image(path, self.max_pixels)
        framed = self.transform(image, np.zeros((0, 4)), np.zeros(0, np.int64), 0)
        batch = torch.from_numpy(framed.image).permute(2, 0, 1)[None].to(self.device)
        with backend_switches(self.trainer), network_precision(self.trainer.precision, self.device):
            logits = self.module(batch)
        probabilities, labels = self.module.best_classes(logits, BEST_CLASSES)
        names = [self.class_names[label] for label in labels[0].tolist()]
        return list(zip(names, probabilities[0].tolist(), strict=True))


def print_classes(model: ClassifierFiles, places: list[Path]) -> None:
    """Prints the classes of every image. ValueError at the end if some could not be used."""
    left_out = 0
    for path in find_images(places):
        started = time.perf_counter()
        try:
            best = model.best_classes(str(path))
        except ImageError as error:
            left_out += 1
            sys.stderr.write(f"error: {error}\n")
            continue
        print("\n".join(class_lines(str(path), best, time.perf_counter() - started)))
    if left_out:
        raise ValueError(f"images that could not be used and were left out, see above: {left_out}")


def class_lines(path: str, best: list[tuple[str, float]], seconds: float) -> Iterator[str]:
    """As predict_classifier of Darknet's examples/classifier.c prints them: `99.12%: seven`."""
    yield f"{path}: Predicted in {seconds:.6f} seconds."
    for name, probability in best:
        yield f"{100 * probability:5.2f}%: {printable(name)}"
