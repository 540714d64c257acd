"""Shows what a detector is trained on: grids of augmented samples with their boxes, and the anchors that have to find them.

detectors browse [OVERRIDE ...] [--images 16] [--anchors]               the first samples of a run of train.py
detectors browse --compare augment=none augment=light                   one row of pictures for each

The samples come from the loader of train.py in its order, so what is shown is what is trained on: docs/data.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.commands.browse.matched_anchors import MatchedAnchors, matched_anchors, matches_table
from detectors.config.check import check
from detectors.config.entry import verb
from detectors.config.schema import Config, composed, merged, to_yaml
from detectors.data.images import ImageError, read_image
from detectors.data.loading import BatchLoader, DetectionDataset, Sample
from detectors.data.sampling import Key, ResumableSampler
from detectors.drawing import captioned, class_colours, draw_boxes, fit_image, image_grid, outline
from detectors.training import assemble
from detectors.training import checkpoint as ckpt
from detectors.training.tracking import Tracker

COLUMNS, ROWS = 4, 4  # cells of a page
GAP = 4  # pixels between cells
LARGEST_OPTION = 1000  # pixels of a cell
PICTURE_QUALITY = 75


class Shown(NamedTuple):
    """A sample of the run."""

    key: Key
    sample: Sample
    anchors: MatchedAnchors | None  # None: nobody asked for them


class SampleSource(NamedTuple):
    """A split as one configuration sees it."""

    label: str  # what tells it from the others that it is compared with, "" if it is alone
    config: Config
    annotations: Annotations
    dataset: DetectionDataset
    sampler: ResumableSampler | None  # None: the samples are not augmented, and all epochs are alike
    shown: list[Shown]  # at least one, in the order in which training (other splits: evaluation) takes them

    def in_epoch(self, key: Key, epoch: int) -> Key:
        """The same image in another epoch, at the size that it has in that epoch's batch."""
        place = epoch * self.sampler.images + int(
            np.flatnonzero(self.sampler.permutation(epoch) == key.index)[0]
        )
        return Key(
            epoch, key.index, self.sampler.size_of and self.sampler.size_of(place // self.sampler.batch_size)
        )


@verb
def main(arguments: list[str] | None = None) -> None:
    asked = _arguments(arguments)
    sources = list(open_sources(asked))
    first = sources[0]
    print("\n\n".join(about(source, asked) for source in sources), flush=True)
    folder = (
        asked.output
        or Path(first.config.paths.output)
        / "browse"
        / f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{first.config.name}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(folder)
    for name, pages in (compared(sources, asked) if asked.compare else sample_pictures(first, asked)).items():
        for number, page in enumerate(pages, 1):
            print(
                write_pages(
                    page,
                    folder
                    / (f"{name}_{number}.{asked.format}" if len(pages) > 1 else f"{name}.{asked.format}"),
                )
            )
        tracker.images(f"browse/{name}", pages, 0)
    tracker.text("browse/about", "\n\n".join(about(source, asked) for source in sources))
    tracker.text("run/config", to_yaml(first.config))
    tracker.close()
    print(f"tensorboard --logdir {folder}")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    """ValueError for numbers that make no sense, and for options that do not go together."""
    parser = argparse.ArgumentParser(
        prog="detectors browse", description="Pictures of what is trained on, as images and for TensorBoard."
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="as for train.py: data=voc07 augment=ssd model=ssd300 ...",
    )
    parser.add_argument(
        "--split",
        default="train",
        choices=("train", "val", "test"),
        help="val and test: as evaluation sees them",
    )
    parser.add_argument("--images", type=int, default=COLUMNS * ROWS, help="so many samples (16)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--step", type=int, help="from this optimiser step of the run on, the first is 0")
    start.add_argument("--epoch", type=int, help="from the beginning of this epoch on, the first is 0")
    parser.add_argument("--epochs", type=int, default=4, help="the first images again in so many epochs (4)")
    parser.add_argument(
        "--anchors", action="store_true", help="draw and count the anchors that are matched to each truth"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="a run or a checkpoint: its configuration, with the overrides over it"
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        metavar="OVERRIDE[,OVERRIDE]",
        help="a row of pictures for each: augment=none augment=light",
    )
    parser.add_argument("--output", type=Path, help="folder (outputs/browse/DATE_TIME_NAME)")
    parser.add_argument("--format", default="png", choices=("png", "jpg"))
    parser.add_argument(
        "--width", type=int, default=2000, help="pixels of a picture (2000); crowded images need more"
    )
    asked = parser.parse_intermixed_args(arguments)  # options may stand between the overrides
    for name, low in {"images": 1, "step": 0, "epoch": 0, "epochs": 1, "width": 200}.items():
        if (value := getattr(asked, name)) is not None and value < low:
            raise ValueError(f"--{name} {value}: must be {low} or more")
    if asked.split != "train" and (asked.step is not None or asked.epoch is not None):
        raise ValueError(
            f"--split {asked.split}: evaluation has neither steps nor epochs; leave out --step and --epoch"
        )
    return asked


def open_sources(asked: argparse.Namespace) -> Iterator[SampleSource]:
    """One, or with --compare one for each row, which is named after its first override."""
    for row in asked.compare or ():
        changes = re.split(r",(?=[\w./@+~]+=)", row)  # not at the commas in input.size=[300,300]
        key, _, value = changes[0].partition("=")
        yield open_source(f"{key.rpartition('.')[2]}={value}", [*asked.overrides, *changes], asked)
    if not asked.compare:
        yield open_source("", asked.overrides, asked)


def open_source(label: str, overrides: Sequence[str], asked: argparse.Namespace) -> SampleSource:
    """ValueError for a split without images, and for a start after the end of the run."""
    stored = ckpt.load_checkpoint(ckpt.find_checkpoint(asked.checkpoint)) if asked.checkpoint else None
    config = check(merged(stored.config, overrides) if stored else composed(overrides))
    annotations = _annotations(config, asked.split, stored.class_names if stored else None)
    loader, skipped = _loader(config, annotations, asked)
    detector = None
    if asked.anchors:
        cpu, classes = torch.device("cpu"), len(annotations.class_names)
        detector = (
            assemble.load_detector(stored, cpu)[0]
            if stored
            else assemble.build_detector(config, classes).eval()
        )
    shown = []
    for key in islice(chain.from_iterable(loader.batch_sampler), skipped, skipped + asked.images):
        if (sample := _fetch(loader.dataset, key)) is not None:
            shown.append(Shown(key, sample, matched_anchors(detector, sample) if detector else None))
    if not shown:
        raise ValueError(
            f"data.{asked.split}: none of these images can be used, see above; `detectors lint` looks at all"
        )
    return SampleSource(
        label,
        config,
        annotations,
        loader.dataset,
        loader.batch_sampler if asked.split == "train" else None,
        shown,
    )


def _annotations(config: Config, split: str, class_names: tuple[str, ...] | None) -> Annotations:
    if class_names is None and split != "train" and config.data.class_names is None:
        class_names = assemble.read_annotations(config.data, "train").class_names
    annotations = assemble.read_annotations(config.data, split, class_names)
    if len(annotations) == 0:
        raise ValueError(
            f"data.{split}={getattr(config.data, split)}: there is no image in this split; name another one, or fill it"
        )
    return annotations


def _loader(config: Config, annotations: Annotations, asked: argparse.Namespace) -> tuple[BatchLoader, int]:
    """The one that training or evaluation has, and how many samples of its first step come before the place to start from."""
    if asked.split != "train":
        return assemble.eval_loader(config, annotations, batch_size=config.trainer.eval_batch_size), 0
    per_step = config.trainer.batch_size * config.trainer.accumulate
    step, skipped = (
        (asked.step or 0, 0) if asked.epoch is None else divmod(asked.epoch * len(annotations), per_step)
    )
    if step >= config.trainer.steps:
        what = f"--step {step}" if asked.epoch is None else f"--epoch {asked.epoch} (step {step})"
        raise ValueError(f"{what}: the run ends before it, trainer.steps={config.trainer.steps}")
    return assemble.train_loader(config, annotations, start_step=step), skipped


def _fetch(dataset: DetectionDataset, key: Key) -> Sample | None:
    """None for a broken image that evaluation leaves out, which stderr says; ImageError for one that would end the run."""
    try:
        return dataset[key]
    except ImageError as error:
        if dataset.on_error != "leave_out":
            raise
        sys.stderr.write(f"left out: {error}\n")
        return None


def about(source: SampleSource, asked: argparse.Namespace) -> str:
    """What is shown, and with anchors the table of how many each truth got."""
    truths, (key, *_) = source.annotations, source.shown[0]
    name = f"{source.label + ': ' if source.label else ''}{source.config.data.name} {asked.split}"
    line = f"{name}: {len(truths)} images, {len(truths.labels)} boxes of {len(truths.class_names)} classes; {len(source.shown)} shown"
    line += f", from epoch {key.epoch} on" if source.sampler else ""
    return "\n".join(
        [line, *(matches_table([shown.anchors for shown in source.shown]) if asked.anchors else [])]
    )


def sample_pictures(source: SampleSource, asked: argparse.Namespace) -> dict[str, list[np.ndarray]]:
    """Name of a file -> its pages: the samples, the first of them beside their originals and in more epochs, the anchors."""
    side, columns = _side(asked, COLUMNS), 1 + (asked.epochs if source.sampler else 1)
    found = {
        "samples": _pages([sample_cell(source, shown.key, shown.sample, side) for shown in source.shown])
    }
    cells = []
    for shown in source.shown[:ROWS]:
        cells += [
            original_cell(source, shown.sample.info.index, _side(asked, columns)),
            *epoch_cells(source, shown, asked, columns),
        ]
    found["epochs" if source.sampler else "originals"] = [image_grid(cells, columns, GAP)]
    if asked.anchors:
        found["anchors"] = _pages([anchor_cell(source, shown, side) for shown in source.shown])
    return found


def compared(sources: list[SampleSource], asked: argparse.Namespace) -> dict[str, list[np.ndarray]]:
    """Name of a file -> its page. A row for each source: its first samples with anchors, or the first in several epochs."""
    columns = (
        min(COLUMNS, *[len(source.shown) for source in sources])
        if asked.anchors
        else asked.epochs
        if sources[0].sampler
        else 1
    )
    cells = []
    for source in sources:
        if asked.anchors:
            cells += [anchor_cell(source, shown, _side(asked, columns)) for shown in source.shown[:columns]]
        else:
            cells += epoch_cells(source, source.shown[0], asked, columns)
    return {"compared_anchors" if asked.anchors else "compared_epochs": [image_grid(cells, columns, GAP)]}


def epoch_cells(
    source: SampleSource, shown: Shown, asked: argparse.Namespace, columns: int
) -> list[np.ndarray]:
    """A sample in its own epoch and in those that follow."""
    side, first = _side(asked, columns), shown.key.epoch
    later = (
        [source.in_epoch(shown.key, epoch) for epoch in range(first + 1, first + asked.epochs)]
        if source.sampler
        else []
    )
    return [
        sample_cell(source, shown.key, shown.sample, side),
        *(sample_cell(source, key, source.dataset[key], side) for key in later),
    ]


def _side(asked: argparse.Namespace, columns: int) -> int:
    """Pixels of a cell, so that a row of them has the width at most."""
    return min(LARGEST_OPTION, max(16, (asked.width + GAP) // columns - GAP))


def _pages(cells: list[np.ndarray]) -> list[np.ndarray]:
    size = COLUMNS * ROWS
    return [image_grid(cells[start : start + size], COLUMNS, GAP) for start in range(0, len(cells), size)]


def sample_cell(source: SampleSource, key: Key, sample: Sample, side: int) -> np.ndarray:
    """A sample, its boxes and names in the colours of their classes."""
    drawn = _drawn(
        sample.image.numpy(),
        sample.boxes.numpy(),
        sample.labels.numpy(),
        source.annotations.class_names,
        side=side,
    )
    return captioned(drawn, f"{source.label or sample.info.image_id}, epoch {key.epoch}")


def original_cell(source: SampleSource, row: int, side: int) -> np.ndarray:
    """The file as it is, with all boxes of its annotation, also those that are not trained on."""
    truths, rows = source.annotations, source.annotations.rows(row)
    odd = zip(truths.difficult[rows], truths.crowd[rows], strict=True)
    marks = [" difficult" * bool(difficult) + " crowd" * bool(crowd) for difficult, crowd in odd]
    image, boxes, labels = read_image(truths.paths[row]), truths.boxes_original[rows], truths.labels[rows]
    return captioned(
        _drawn(image, boxes, labels, truths.class_names, marks, side=side),
        f"{truths.image_ids[row]}, original",
    )


def _drawn(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    marks: Sequence[str] = (),
    *,
    side: int,
):
    """(H, W, 3) uint8 RGB resized to `side`, with boxes and names in the colours of their classes, the smallest on top."""
    image, factor = fit_image(image, side)
    order = _smallest_first(boxes)
    texts = [names[labels[row]] + (marks[row] if marks else "") for row in order]
    return draw_boxes(
        image, boxes[order] * factor, texts, colours=class_colours(len(names))[labels[order]], enlarge=False
    )


def _smallest_first(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) -> (n,) rows"""
    return (boxes[:, 2:] - boxes[:, :2]).prod(1).argsort(kind="stable")


def anchor_cell(source: SampleSource, shown: Shown, side: int) -> np.ndarray:
    """Each truth in a colour of its own with the number of its anchors, these thin and faint; a truth without any in white dashes."""
    sample, found, boxes = shown.sample, shown.anchors, shown.sample.boxes.numpy()
    image, factor = fit_image(sample.image.numpy(), side)
    texts = [
        f"{source.annotations.class_names[label]} {n}"
        for label, n in zip(sample.labels.tolist(), found.counts, strict=True)
    ]
    colours, order = class_colours(len(boxes)), _smallest_first(boxes)
    has, lacks = order[found.counts[order] > 0], order[found.counts[order] == 0]
    drawn = draw_boxes(
        outline(image, found.anchors * factor, colours[found.truth]),
        boxes[has] * factor,
        [texts[row] for row in has],
        colours=colours[has],
        gt_boxes=boxes[lacks] * factor,
        gt_texts=[texts[row] for row in lacks],
        enlarge=False,
    )
    without = f", {len(lacks)} without" if len(lacks) else ""
    return captioned(
        drawn,
        f"{source.label or sample.info.image_id}: {len(boxes)} truths, {len(found.truth)} anchors{without}",
    )


def write_pages(picture: np.ndarray, path: Path) -> Path:
    settings = (
        [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        if path.suffix == ".jpg"
        else []
    )
    if not cv2.imwrite(str(path), picture[..., ::-1], settings):
        raise ValueError(f"{path}: the picture could not be written")
    return path


if __name__ == "__main__":
    main()
