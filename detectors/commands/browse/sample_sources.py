"""The samples that `detectors browse` shows: of one configuration, or of each row of --compare."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.commands.browse.matches_table import matches_table
from detectors.config.check import check
from detectors.config.composing import composed, latest_or, merged
from detectors.config.schema import CLASSIFICATION, Config
from detectors.data.dataset import DetectionDataset, Sample
from detectors.data.images import ImageError
from detectors.data.loading import BatchLoader
from detectors.data.sampling import Key, ResumableSampler
from detectors.models.detector import Detector
from detectors.training import assemble, ground_truth
from detectors.training import checkpoint as ckpt
from detectors.training.budgets import in_steps
from detectors.training.matched_anchors import MatchedAnchors, matched_anchors


class ShownSample(NamedTuple):
    key: Key
    sample: Sample
    anchors: MatchedAnchors | None  # None without --anchors


class SampleSource(NamedTuple):
    """One split in one configuration, and the samples of it to show."""

    title: str  # the row's first override with --compare, otherwise ""
    config: Config
    annotations: Annotations
    dataset: DetectionDataset
    sampler: ResumableSampler | None  # None if samples are not augmented: then all epochs are alike
    shown: list[ShownSample]  # at least one, in the order of training (val and test: of evaluation)

    def in_epoch(self, key: Key, epoch: int) -> Key:
        """The same image in another epoch, at the size of its batch in that epoch.

        Of several sets: in another pass of its set, at the same size.
        """
        if self.sampler.mix is not None:
            return key._replace(epoch=epoch)
        place = int(np.flatnonzero(self.sampler.permutation(epoch) == key.index)[0])
        batch = (epoch * self.sampler.images + place) // self.sampler.batch_size
        size = self.sampler.size_of(batch) if self.sampler.size_of else None
        return Key(epoch, key.index, size)


def open_sources(args: argparse.Namespace) -> Iterator[SampleSource]:
    """One source, or one per row of --compare. args: the command line of `detectors browse`."""
    if not args.compare:
        yield open_source("", args.overrides, args)
    for row in args.compare or ():
        changes = re.split(r",(?=[\w./@+~]+=)", row)  # not at the commas in input.size=[300,300]
        key, _, value = changes[0].partition("=")
        yield open_source(f"{key.rpartition('.')[2]}={value}", [*args.overrides, *changes], args)


def open_source(title: str, overrides: Sequence[str], args: argparse.Namespace) -> SampleSource:
    """ValueError: the split has no usable image, or --step or --epoch is after the end of the run."""
    stored = (
        ckpt.load_checkpoint(ckpt.find_checkpoint(latest_or(args.checkpoint))) if args.checkpoint else None
    )
    config = check(merged(stored.config, overrides) if stored else composed(overrides))
    annotations = _read_annotations(config, args.split, stored.class_names if stored else None)
    if args.split == "train":
        config = in_steps(config, len(annotations))
    loader, skipped = _build_loader(config, annotations, args)
    detector = _open_detector(config, annotations, stored) if args.anchors else None
    shown = []
    for key in islice(chain.from_iterable(loader.batch_sampler), skipped, skipped + args.images):
        sample = _read_sample(loader.dataset, key)
        if sample is not None:
            anchors = matched_anchors(detector, sample) if detector else None
            shown.append(ShownSample(key, sample, anchors))
    if not shown:
        raise ValueError(
            f"data.{args.split}: no image can be used, see above; `detectors lint` checks all images"
        )
    sampler = loader.batch_sampler if args.split == "train" else None
    return SampleSource(title, config, annotations, loader.dataset, sampler, shown)


def _read_annotations(config: Config, split: str, class_names: tuple[str, ...] | None) -> Annotations:
    if class_names is None and split != "train" and config.data.class_names is None:
        class_names = ground_truth.read_annotations(config.data, "train").class_names
    return ground_truth.read_annotations(config.data, split, class_names)


def _build_loader(
    config: Config, annotations: Annotations, args: argparse.Namespace
) -> tuple[BatchLoader, int]:
    """(the loader of training or evaluation, number of samples to skip in it).

    The loader starts with a whole step, so samples are skipped if --epoch begins within a step.
    """
    if args.split != "train":
        batch_size = config.trainer.eval_batch_size
        return assemble.eval_loader(config, annotations, batch_size=batch_size), 0
    step = args.step or 0
    skipped = 0
    option = f"--step {step}"
    if args.epoch is not None:
        per_step = config.trainer.batch_size * config.trainer.accumulate
        step, skipped = divmod(args.epoch * len(annotations), per_step)
        option = f"--epoch {args.epoch} (step {step})"
    if step >= config.trainer.steps:
        raise ValueError(f"{option}: the run ends before it, trainer.steps={config.trainer.steps}")
    return assemble.train_loader(config, annotations, start_step=step), skipped


def _open_detector(config: Config, annotations: Annotations, stored: ckpt.Checkpoint | None) -> Detector:
    """The checkpoint's detector, or a new one of the configuration; in evaluation mode."""
    if stored:
        return assemble.load_detector(stored, torch.device("cpu"))[0]
    if config.task == CLASSIFICATION:
        raise ValueError(f"--anchors: model={config.name} is a classifier and has none; leave it out")
    return assemble.build_detector(config, len(annotations.class_names)).eval()


def _read_sample(dataset: DetectionDataset, key: Key) -> Sample | None:
    """None for a broken image that evaluation leaves out, with a line on stderr.

    ImageError: a broken image that would end the run.
    """
    try:
        return dataset[key]
    except ImageError as error:
        if dataset.on_error != "leave_out":
            raise
        sys.stderr.write(f"left out: {error}\n")
        return None


def describe(source: SampleSource, args: argparse.Namespace) -> str:
    """A line about what is shown, and with --anchors the table of matched anchors."""
    annotations = source.annotations
    title = f"{source.title}: " if source.title else ""
    line = f"{title}{source.config.data.name} {args.split}: {len(annotations)} images, "
    line += f"{len(annotations.labels)} boxes of {len(annotations.class_names)} classes; "
    line += f"{len(source.shown)} shown"
    if source.sampler:
        line += f", from epoch {source.shown[0].key.epoch} on"
    table = matches_table([shown.anchors for shown in source.shown]) if args.anchors else []
    return "\n".join([line, *table])
