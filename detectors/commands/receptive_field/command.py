"""What each level of a detector sees: detectors receptive-field MODEL_OR_RUN [--output X.png] [key=value ...]

Prints for each level the theoretical field, the distance between neighbouring ones, and the square that
holds 95 % of the gradient; with --output a picture with the level's anchors. See docs/receptive-field.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detectors.commands.receptive_field.field_pictures import field_pictures
from detectors.commands.receptive_field.field_sizes import (
    Field,
    effective_square,
    gradient_maps,
    theoretical_fields,
)
from detectors.commands.receptive_field.options import options
from detectors.config.entry import verb
from detectors.config.schema import Config
from detectors.data.augment.fitting import RESIZES, resize
from detectors.data.files import atomic_file
from detectors.data.image_headers import IMAGE_SUFFIXES
from detectors.data.images import read_image
from detectors.drawing.framed_images import png_bytes
from detectors.models.detector import Detector
from detectors.tables import text_table
from detectors.training.named_network import named_network

HEADER = ("level", "cells", "anchors", "anchors' stride", "field", "fields' stride", "95 % in")


@verb
def main(arguments: list[str] | None = None) -> None:
    args = options(arguments)
    detector, config = chosen_detector(args)
    size = (config.input.size[0], config.input.size[1])
    images = sample_images(args, config)
    fields = theoretical_fields(detector)
    gradients = gradient_maps(detector, images, squared=args.measure == "squared")
    print(*field_table(detector, size, fields, gradients), sep="\n")
    print(f"pixels of an input of {size[0]} x {size[1]}; {args.measure} gradient, {len(images)} images")
    if args.output:
        image = images[0].permute(1, 2, 0).numpy() if args.images else np.full((*size, 3), 200, np.uint8)
        with atomic_file(args.output) as file:
            file.write(png_bytes(field_pictures(detector, image, fields, gradients)))
        print(f"written: {args.output}")


def chosen_detector(args: argparse.Namespace) -> tuple[Detector, Config]:
    """A run's, or a new one of a yaml. ValueError for a classifier."""
    named = named_network(args.place, args.overrides, seed=args.seed)
    if not isinstance(named.network, Detector):
        raise ValueError(f"{args.place}: not a detector; name one that has anchors, such as ssd300")
    for note in named.notes:
        print(note)
    return named.network, named.config


def sample_images(args: argparse.Namespace, config: Config) -> Tensor:
    """(B, 3, H, W) uint8: the first images that were given, fitted as in an evaluation, or noise."""
    size = (config.input.size[0], config.input.size[1])
    if not args.images:
        generator = torch.Generator().manual_seed(args.seed)
        return torch.randint(0, 256, (args.count, 3, *size), dtype=torch.uint8, generator=generator)
    images = []
    for path in _image_files(args.images)[: args.count]:
        image = read_image(str(path))
        fit = RESIZES[config.input.resize](image.shape[:2], size)
        images.append(torch.from_numpy(np.ascontiguousarray(resize(image, fit, size))).permute(2, 0, 1))
    return torch.stack(images)


def _image_files(places: list[Path]) -> list[Path]:
    files = []
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"{place}: no such image or folder")
        inside = [place]
        if place.is_dir():
            inside = sorted(path for path in place.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not inside:
            raise ValueError(f"{place}: no image in this folder")
        files += inside
    return files


def field_table(
    detector: Detector, size: tuple[int, int], fields: list[Field], gradients: list[Tensor]
) -> list[str]:
    cells = []
    levels = detector.grid(size).levels
    for number, (level, field, gradient) in enumerate(zip(levels, fields, gradients, strict=True), 1):
        shape = f"{field.height} x {field.width}"
        side = effective_square(gradient)[2]
        cells.append(
            [
                str(number),
                f"{level.rows} x {level.columns}",
                str(level.per_location),
                f"{level.stride:g}",
                shape,
                str(field.stride),
                f"{side} x {side}",
            ]
        )
    return text_table(HEADER, cells, left=())


if __name__ == "__main__":
    main()
