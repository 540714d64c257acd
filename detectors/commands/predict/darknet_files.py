"""A network of Darknet's files, with Darknet's own decoding, framing and arithmetic; see docs/darknet.md."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detectors.darknet.framing import darknet_letterbox, darknet_resize, frame, to_unit
from detectors.darknet.jpeg import UnsupportedJpeg, decode
from detectors.darknet.network import read_network
from detectors.darknet.sections import DarknetCfg
from detectors.data.class_names import read_names
from detectors.data.images import read_image
from detectors.postprocess import to_original
from detectors.structures import Detections, ImageInfo
from detectors.wordtree.tree_files import readable_names


class DarknetFiles:
    """A cfg's network behind Darknet's letterbox or its plain resizing ("stretch"), at the cfg's size."""

    def __init__(
        self,
        cfg: Path,
        weights: Path,
        names: Path | None,
        device: torch.device,
        *,
        nms_iou: float = 0.45,
        resize: str = "letterbox",
        batch_norm: str = "cpu",
        tree_rule: str | None = None,
        tree_threshold: float | None = None,
        detection_map: Path | None = None,
    ):
        """batch_norm: the arithmetic of Darknet's "cpu" or "gpu" build. Notes on the cfg go to stderr.
        tree_rule, tree_threshold, detection_map: see TreeScores; None: as Darknet.

        FileNotFoundError or ValueError if the files do not fit each other, the last layer is not [region], or
        the network takes other pixels than RGB.
        """
        network, self.report = read_network(cfg, weights, batch_norm=batch_norm)
        if network.config.region is None:
            raise ValueError(f"{cfg}: its last layer is not [region], so it finds no boxes")
        if network.config.net.channels != 3:
            raise ValueError(f"{cfg}: channels={network.config.net.channels}; images have 3")
        for line in (*network.config.notes, *network.config.unused):
            sys.stderr.write(f"note: {line}\n")
        given = {"rule": tree_rule, "threshold": tree_threshold, "detection_map": detection_map}
        self.tree_scores = {name: value for name, value in given.items() if value is not None}
        if self.tree_scores and network.config.region.tree is None:
            raise ValueError(f"{cfg}: its classes are no tree; leave out --tree-rule, --hier and --map")
        self.module = network.to(device).eval()
        self.class_names = names_of(names, network.config)
        self.device = device
        self.nms_iou = nms_iou
        self.resize = resize

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        return self.module.config.net.height, self.module.config.net.width

    def read(self, path: str) -> np.ndarray:
        return read_darknet_image(path)

    def check_size(self, size: tuple[int, int]) -> None:
        """A convolutional network takes all multiples of its stride."""

    def prepare(self, image: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, ImageInfo]:
        put = darknet_letterbox if self.resize == "letterbox" else darknet_resize
        pixels = torch.from_numpy(put(to_unit(image), size))  # (3, H, W) from 0 to 1
        return pixels, frame(image.shape[:2], size, self.resize)

    def detect(self, batch: Tensor, infos: list[ImageInfo], score: float) -> Detections:
        detections = self.module.detections(
            batch, score_threshold=score, nms_iou=self.nms_iou, **self.tree_scores
        )
        return to_original(detections, infos)


def names_of(path: Path | None, cfg: DarknetCfg) -> tuple[str, ...]:
    """The class names of a .names file, one a line; "0", "1", ... without a file.

    ValueError if their number is not the cfg's.
    """
    classes = cfg.region.classes
    if path is None:
        tree = cfg.region.tree
        return tuple(str(number) for number in range(classes)) if tree is None else tree.names
    names = read_names(path) if cfg.region.tree is None else readable_names(path, cfg.region.tree)
    if len(names) != classes:
        raise ValueError(
            f"{path}: {len(names)} names, but {cfg.path} has classes={classes}; "
            "is it the list of another data set?"
        )
    return names


def read_darknet_image(path: str) -> np.ndarray:
    """(h, w, 3) uint8 RGB as Darknet decodes it. ImageError for a file that cannot be read.

    A JPEG of a kind that our version of Darknet's decoder does not know is decoded by libjpeg, and stderr
    says so.
    """
    image = read_image(path)
    data = Path(path).read_bytes()
    if data[:2] != b"\xff\xd8":
        return image  # there is only one way to decode PNG and BMP
    try:
        return decode(data)
    except UnsupportedJpeg as error:
        sys.stderr.write(
            f"note: {path}: decoded by libjpeg, so scores may differ from Darknet's in the third digit "
            f"({error})\n"
        )
        return image
