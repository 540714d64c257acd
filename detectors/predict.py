"""Draws and prints what a detector finds: python -m detectors.predict RUN_OR_CHECKPOINT IMAGE_OR_FOLDER ... [--score 0.3]."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from detectors import checkpoint as ckpt
from detectors import parts
from detectors.data.loading import read_image
from detectors.data.transforms import build_transform
from detectors.drawing import draw_detections
from detectors.entry import verb
from detectors.structures import Detections, ImageInfo

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@verb
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m detectors.predict", description="Prints `image: class score xmin ymin xmax ymax`.")
    parser.add_argument("run", type=Path, help="a run folder or a checkpoint")
    parser.add_argument("images", nargs="+", type=Path, help="images, or folders of images")
    parser.add_argument("--score", type=float, default=0.3, help="least score of what is shown (0.3)")
    parser.add_argument("--output", type=Path, default=Path("outputs/predict"), help="folder of the drawn images (outputs/predict)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    asked = parser.parse_args(arguments)
    checkpoint = ckpt.load(ckpt.find(asked.run))
    predict = Predictor(checkpoint, parts.choose_device(asked.device))
    asked.output.mkdir(parents=True, exist_ok=True)
    for path in find_images(asked.images):
        image = read_image(str(path))
        found = predict(image).above(asked.score)
        for line in lines(path, found, checkpoint.class_names):
            print(line)
        target = asked.output / f"{path.stem}.png"
        picture = draw_detections(image, found, checkpoint.class_names)
        if not cv2.imwrite(str(target), picture[..., ::-1]):
            raise ValueError(f"{target}: the picture could not be written")
    print(f"pictures: {asked.output}")


class Predictor:
    """A checkpoint's detector behind the frame (letterbox or stretch, size) that it was trained with."""

    def __init__(self, checkpoint: ckpt.Checkpoint, device: torch.device):
        self.device = device
        self.detector, config = parts.load_detector(checkpoint, device)
        self.size = tuple(config.input.size)
        self.transform = build_transform(augment="none", size=self.size, resize=config.input.resize, train=False)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Detections:
        """image: (h, w, 3) uint8 RGB -> detections in its frame, the best first."""
        framed = self.transform(image, np.zeros((0, 4)), np.zeros(0, np.int64), 0)
        info = ImageInfo(0, "", "", image.shape[:2], framed.scale_xy, framed.shift_xy)
        batch = torch.from_numpy(framed.image).permute(2, 0, 1)[None].to(self.device)
        return self.detector.detections(self.detector(batch), [info], self.size).to("cpu")


def find_images(places: list[Path]) -> Iterator[Path]:
    """Files as they are, folders sorted by name. FileNotFoundError for what is not there; ValueError for a folder without images."""
    for place in places:
        if place.is_dir():
            inside = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
            if not inside:
                raise ValueError(f"{place}: no image in this folder; looked for {', '.join(SUFFIXES)}")
            yield from inside
        elif place.is_file():
            yield place
        else:
            raise FileNotFoundError(f"{place}: no such image or folder")


def lines(path: Path, found: Detections, class_names: tuple[str, ...]) -> Iterator[str]:
    """`image: class score xmin ymin xmax ymax`, pixels of the image."""
    for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
        yield f"{path}: {class_names[label]} {score:.3f} " + " ".join(f"{edge:.1f}" for edge in box)


if __name__ == "__main__":
    main()
