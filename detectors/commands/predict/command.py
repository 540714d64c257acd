"""Draws and prints what a detector finds: a trained run's, or that of a Darknet cfg and weights file.

detectors predict RUN_OR_CHECKPOINT IMAGE_OR_FOLDER ... [--score 0.3]
detectors predict --cfg X.cfg --weights X.weights --names X.names IMAGE_OR_FOLDER ... [--thresh 0.5] [--nms 0.45]

The second is Darknet's `detect`: the same boxes and scores, from the JPEG's bytes on. docs/darknet.md says how.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from detectors.config.entry import verb
from detectors.darknet.framing import darknet_letterbox, darknet_resize, frame, to_unit
from detectors.darknet.jpeg import UnsupportedJpeg, decode
from detectors.darknet.network import DarknetNetwork, read_network
from detectors.darknet.sections import DarknetCfg
from detectors.data.augment.transforms import build_transform, no_augmentation
from detectors.data.class_names import read_names
from detectors.data.images import ImageError, read_image
from detectors.drawing import draw_detections
from detectors.postprocess import to_original
from detectors.structures import Detections, ImageInfo
from detectors.training import assemble
from detectors.training import checkpoint as ckpt

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
DARKNET_OPTIONS = ("weights", "names", "nms", "resize", "batch_norm", "report")  # options that need --cfg


@verb
def main(arguments: list[str] | None = None) -> None:
    asked = _arguments(arguments)
    if asked.cfg:
        predict, places = _darknet(asked), asked.places
        class_names = names_of(asked.names, predict.network.config)
    else:
        checkpoint = ckpt.load_checkpoint(ckpt.find_checkpoint(asked.places[0]))
        predict, class_names, places = (
            Predictor(checkpoint, assemble.choose_device(asked.device)),
            checkpoint.class_names,
            asked.places[1:],
        )
    asked.output.mkdir(parents=True, exist_ok=True)
    broken = 0
    for path in find_images(places):
        try:
            image = read_darknet_image(path) if asked.cfg else read_image(str(path))
        except ImageError as error:
            broken += 1
            sys.stderr.write(f"error: {error}\n")
            continue
        started = time.perf_counter()
        found = predict(image).above(asked.score)
        if asked.cfg:
            print("\n".join(darknet_lines(path, found, class_names, time.perf_counter() - started)))
        for line in detection_lines(path, found, class_names):
            print(line)
        target = asked.output / f"{path.stem}.png"
        picture = draw_detections(image, found, class_names)
        if not cv2.imwrite(str(target), picture[..., ::-1]):
            raise ValueError(f"{target}: the picture could not be written")
    print(f"pictures: {asked.output}")
    if broken:
        raise ValueError(f"images that could not be read and were left out, see above: {broken}")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    """ValueError for options that do not go together."""
    parser = argparse.ArgumentParser(
        prog="detectors predict",
        usage="%(prog)s (RUN_OR_CHECKPOINT | --cfg CFG --weights WEIGHTS [--names NAMES]) IMAGE_OR_FOLDER ... [options]",
        description="Prints `image: class score xmin ymin xmax ymax`; with --cfg, Darknet's own lines before them.",
    )
    parser.add_argument(
        "places",
        nargs="+",
        type=Path,
        metavar="PLACE",
        help="a run or a checkpoint, then images or folders of them",
    )
    parser.add_argument(
        "--score",
        "--thresh",
        type=float,
        help="least score of what is shown (0.3; with --cfg 0.5, as Darknet)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("outputs/predict"),
        help="folder of the drawn images (outputs/predict)",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    darknet = parser.add_argument_group("Darknet's files, instead of a run")
    darknet.add_argument("--cfg", type=Path, help="the network")
    darknet.add_argument("--weights", type=Path)
    darknet.add_argument("--names", type=Path, help="one class name per line (without it, numbers)")
    darknet.add_argument(
        "--nms", type=float, help="boxes of a class above this IoU with a better one go (0.45)"
    )
    darknet.add_argument(
        "--resize",
        choices=("letterbox", "stretch"),
        help="how an image becomes the network's input (letterbox)",
    )
    darknet.add_argument(
        "--batch-norm", choices=("cpu", "gpu"), help="the arithmetic of which build of Darknet (cpu)"
    )
    darknet.add_argument(
        "--report", action="store_true", default=None, help="list what was loaded, layer by layer"
    )
    asked = parser.parse_args(arguments)
    given = [f"--{name.replace('_', '-')}" for name in DARKNET_OPTIONS if getattr(asked, name) is not None]
    if asked.cfg is None and given:
        raise ValueError(f"{', '.join(given)}: only together with --cfg, for Darknet's files")
    if asked.cfg is None and len(asked.places) < 2:
        raise ValueError(
            f"{asked.places[0]}: a run or checkpoint alone; name the images to look at behind it, or give --cfg and --weights"
        )
    if asked.cfg is not None and asked.weights is None:
        raise ValueError(f"--cfg {asked.cfg}: --weights is missing")
    if asked.score is None:
        asked.score = 0.3 if asked.cfg is None else 0.5
    return asked


class Predictor:
    """A checkpoint's detector behind the frame (letterbox or stretch, size) that it was trained with."""

    def __init__(self, checkpoint: ckpt.Checkpoint, device: torch.device):
        self.device = device
        self.detector, config = assemble.load_detector(checkpoint, device)
        self.size = tuple(config.input.size)
        self.transform = build_transform(
            augment=no_augmentation(), size=self.size, resize=config.input.resize, train=False
        )

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Detections:
        """image: (h, w, 3) uint8 RGB -> detections in its frame, the best first."""
        framed = self.transform(image, np.zeros((0, 4)), np.zeros(0, np.int64), 0)
        info = ImageInfo(0, "", "", image.shape[:2], framed.scale_xy, framed.shift_xy)
        batch = torch.from_numpy(framed.image).permute(2, 0, 1)[None].to(self.device)
        return self.detector.detections(self.detector(batch), [info], self.size).to("cpu")


class DarknetPredictor:
    """A Darknet network behind Darknet's own letterbox (or its plain resizing, "stretch"), at the size of its cfg."""

    def __init__(
        self,
        network: DarknetNetwork,
        device: torch.device,
        *,
        score: float = 0.5,
        nms_iou: float = 0.45,
        resize: str = "letterbox",
    ):
        """ValueError without a region layer, or for pixels of another kind than RGB."""
        if network.config.region is None:
            raise ValueError(f"{network.config.path}: its last layer is not [region], so it finds no boxes")
        if network.config.net.channels != 3:
            raise ValueError(f"{network.config.path}: channels={network.config.net.channels}; images have 3")
        self.network, self.device = network.to(device).eval(), device
        self.score, self.nms_iou, self.resize = score, nms_iou, resize

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input"""
        return self.network.config.net.height, self.network.config.net.width

    def input(self, image: np.ndarray) -> Tensor:
        """(h, w, 3) uint8 RGB -> (1, 3, H, W) from 0 to 1"""
        put = darknet_letterbox if self.resize == "letterbox" else darknet_resize
        return torch.from_numpy(put(to_unit(image), self.size))[None].to(self.device)

    def __call__(self, image: np.ndarray) -> Detections:
        """image: (h, w, 3) uint8 RGB -> detections above the score in its frame, cut to it, the best first."""
        found = self.network.detections(self.input(image), score_threshold=self.score, nms_iou=self.nms_iou)
        return to_original(found, [frame(image.shape[:2], self.size, self.resize)]).to("cpu")


def _darknet(asked: argparse.Namespace) -> DarknetPredictor:
    network, report = read_network(asked.cfg, asked.weights, batch_norm=asked.batch_norm or "cpu")
    for line in network.config.unused:
        sys.stderr.write(f"note: {line}\n")
    if asked.report:
        print("\n".join(report.lines()))
    nms_iou, resize = 0.45 if asked.nms is None else asked.nms, asked.resize or "letterbox"
    return DarknetPredictor(
        network, assemble.choose_device(asked.device), score=asked.score, nms_iou=nms_iou, resize=resize
    )


def names_of(path: Path | None, config: DarknetCfg) -> tuple[str, ...]:
    """The class names of a Darknet .names file, one per line; "0", "1", ... without a file. ValueError unless the cfg has as many."""
    classes = config.region.classes
    if path is None:
        return tuple(str(n) for n in range(classes))
    names = read_names(path)
    if len(names) != classes:
        raise ValueError(
            f"{path}: {len(names)} names, and {config.path} has classes={classes}; is it the list of another data set?"
        )
    return names


def read_darknet_image(path: Path) -> np.ndarray:
    """(h, w, 3) uint8 RGB as Darknet decodes it. ImageError for a file that cannot be read.

    A JPEG that our copy of Darknet's decoder does not know is read as everywhere else, which stderr says.
    """
    image = read_image(str(path))
    data = path.read_bytes()
    if data[:2] != b"\xff\xd8":
        return image  # PNG and BMP have only one meaning
    try:
        return decode(data)
    except UnsupportedJpeg as error:
        sys.stderr.write(
            f"note: {path}: decoded by libjpeg, so that scores may differ from Darknet's in the third digit ({error})\n"
        )
        return image


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


def detection_lines(path: Path, found: Detections, class_names: tuple[str, ...]) -> Iterator[str]:
    """`image: class score xmin ymin xmax ymax`, pixels of the image."""
    for box, score, label in zip(
        found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
    ):
        yield f"{path}: {class_names[label]} {score:.3f} " + " ".join(f"{edge:.1f}" for edge in box)


def darknet_lines(
    path: Path, found: Detections, class_names: tuple[str, ...], seconds: float
) -> Iterator[str]:
    """What Darknet's `detect` prints, the best detection first: `dog: 82%`."""
    yield f"{path}: Predicted in {seconds:.6f} seconds."
    for score, label in zip(found.scores.tolist(), found.labels.tolist(), strict=True):
        yield f"{class_names[label]}: {100 * score:.0f}%"


if __name__ == "__main__":
    main()
