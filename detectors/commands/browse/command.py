"""Shows what a detector is trained on: grids of augmented samples with their boxes and matched anchors.

detectors browse [OVERRIDE ...] [--images 16] [--anchors]               the first samples of a run of train.py
detectors browse --compare augment=none augment=light                   one row of pictures for each
detectors browse --detections FILE [data=... --split test]         saved detections beside the ground truth

The samples come from train.py's data loader, in its order: they are what training sees. See docs/data.md.
Saved detections are drawn on the original images: docs/evaluation.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from detectors.commands.browse.cells import (
    GAP,
    anchor_cell,
    cell_side,
    epoch_cells,
    original_cell,
    paginate,
    sample_cell,
)
from detectors.commands.browse.options import COLUMNS, ROWS, options
from detectors.commands.browse.sample_sources import SampleSource, describe, open_sources
from detectors.commands.browse.saved_source import describe_saved, detection_cells, open_saved
from detectors.config.composing import composed
from detectors.config.entry import verb
from detectors.config.schema import Config, to_yaml
from detectors.drawing.framed_images import image_grid
from detectors.training.tensorboard_log import TensorBoardLog
from detectors.training.tracking import Tracker

JPEG_QUALITY = 75


class Shown(NamedTuple):
    """What one call shows."""

    name: str  # of its folder, behind date and time
    output: str  # paths.output
    about: str  # printed, and in TensorBoard
    pictures: Callable[[], dict[str, list[np.ndarray]]]  # file name -> its pages
    config: Config | None  # of the samples; the first one's with --compare


@verb
def main(arguments: list[str] | None = None) -> None:
    args = options(arguments)
    shown = shown_detections(args) if args.detections is not None else samples(args)
    print(shown.about, flush=True)
    folder = args.output
    if folder is None:
        folder = Path(shown.output) / "browse" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{shown.name}"
    pictures = shown.pictures()
    folder.mkdir(parents=True, exist_ok=True)
    tracker = Tracker([TensorBoardLog(folder)])
    for name, name_pages in pictures.items():
        for number, page in enumerate(name_pages, 1):
            stem = f"{name}_{number}" if len(name_pages) > 1 else name
            path = folder / f"{stem}.{args.format}"
            write_page(page, path)
            print(path)
        tracker.images(f"browse/{name}", name_pages, 0)
    tracker.text("browse/about", shown.about)
    if shown.config is not None:
        tracker.text("run/config", to_yaml(shown.config))
    tracker.close()
    print(f"tensorboard --logdir {folder}")


def samples(args: argparse.Namespace) -> Shown:
    sources = list(open_sources(args))
    config = sources[0].config
    return Shown(
        config.name,
        config.paths.output,
        "\n\n".join(describe(source, args) for source in sources),
        lambda: comparison_pictures(sources, args) if args.compare else sample_pictures(sources[0], args),
        config,
    )


def shown_detections(args: argparse.Namespace) -> Shown:
    config = composed(args.overrides)
    source = open_saved(args, config)
    return Shown(
        "detections",
        config["paths"]["output"],
        describe_saved(source, args.score),
        lambda: {"detections": paginate(list(detection_cells(source, cell_side(args.width, COLUMNS))))},
        None,
    )


def sample_pictures(source: SampleSource, args: argparse.Namespace) -> dict[str, list[np.ndarray]]:
    """File name -> its pages.

    samples; epochs (val, test: originals): the first samples beside their original images, in several epochs;
    anchors: with --anchors.
    """
    side = cell_side(args.width, COLUMNS)
    pictures = {"samples": paginate([sample_cell(source, s.key, s.sample, side) for s in source.shown])}
    columns = 1 + (args.epochs if source.sampler else 1)
    epoch_side = cell_side(args.width, columns)
    cells = []
    for shown in source.shown[:ROWS]:
        index = shown.sample.info.index
        image = source.dataset.reader.read(index).image
        cells.append(original_cell(source.annotations, index, image, epoch_side))
        cells += epoch_cells(source, shown, args.epochs, epoch_side)
    pictures["epochs" if source.sampler else "originals"] = [image_grid(cells, columns, GAP)]
    if args.anchors:
        pictures["anchors"] = paginate([anchor_cell(source, shown, side) for shown in source.shown])
    return pictures


def comparison_pictures(sources: list[SampleSource], args: argparse.Namespace) -> dict[str, list[np.ndarray]]:
    """File name -> its page, with one row per source.

    A row shows the first samples with their anchors (--anchors), or the first sample in several epochs.
    """
    cells = []
    if args.anchors:
        columns = min(COLUMNS, *[len(source.shown) for source in sources])
        side = cell_side(args.width, columns)
        for source in sources:
            cells += [anchor_cell(source, shown, side) for shown in source.shown[:columns]]
        return {"compared_anchors": [image_grid(cells, columns, GAP)]}
    columns = args.epochs if sources[0].sampler else 1
    side = cell_side(args.width, columns)
    for source in sources:
        cells += epoch_cells(source, source.shown[0], args.epochs, side)
    return {"compared_epochs": [image_grid(cells, columns, GAP)]}


def write_page(page: np.ndarray, path: Path) -> None:
    """(H, W, 3) uint8 RGB to a .png or .jpg file. ValueError: it cannot be written."""
    settings = []
    if path.suffix == ".jpg":
        settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    if not cv2.imwrite(str(path), page[..., ::-1], settings):
        raise ValueError(f"{path}: the picture could not be written")


if __name__ == "__main__":
    main()
