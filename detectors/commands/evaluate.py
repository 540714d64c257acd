"""Evaluates a checkpoint: python evaluate.py run=RUN_OR_CHECKPOINT [split=test].

Writes evaluation.json and detections.json (COCO's results format) beside the checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from detectors.config.build import trust
from detectors.config.check import check
from detectors.config.entry import entry_point
from detectors.config.schema import Config, DataConfig, EvaluateConfig, to_plain
from detectors.data.checks import settled
from detectors.data.files import write_json
from detectors.data.loading import BatchLoader
from detectors.data.problems import KINDS, Problem
from detectors.metrics.coco import coco_results
from detectors.metrics.report import report
from detectors.training import assemble
from detectors.training import checkpoint as ckpt
from detectors.training.detection import DetectionTask, detect
from detectors.training.engine import device_name


@entry_point("evaluate")
def main(cfg: DictConfig) -> float | None:
    """Returns COCO's AP."""
    trust(cfg.builders)
    settings = check(cfg, EvaluateConfig)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = assemble.choose_device(settings.device)
    stored = ckpt.load_checkpoint(ckpt.find_checkpoint(settings.run, f"{settings.checkpoint}.pt"))
    detector, run_config = assemble.load_detector(stored, device)
    config = with_data(run_config, settings)
    scanned = assemble.scan_annotations(config.data, settings.split, stored.class_names)
    annotations = settled(scanned, config.data.on_error)
    loader = assemble.eval_loader(config, annotations, batch_size=settings.batch_size)
    detections, seconds = detect(detector, loader, device, progress=settings.progress)
    result = report(annotations, detections)
    content = {
        "checkpoint": stored.path.name,
        "step": stored.step,
        "data": config.data.name,
        "split": settings.split,
        **result.as_dict(),
        "inference_images_per_second": len(annotations) / max(seconds, 1e-9),
        "device": device_name(device),
        **fault_counts(scanned[1], loader),
    }
    suffix = file_suffix(stored.path, settings.split)
    target = stored.path.parent / f"evaluation{suffix}.json"
    write_json(target, content)
    write_json(
        stored.path.parent / f"detections{suffix}.json", coco_results(annotations, detections), indent=None
    )
    where = f"{config.data.name} {settings.split} ({len(annotations)} images)"
    print(f"{stored.path}, step {stored.step}, on {where}\n{result.table()}")
    print(*fault_lines(scanned[1], loader), sep="", end="")
    print(f"written: {target}")
    return result.scalars[DetectionTask.metric]


def fault_counts(left_out: Sequence[Problem], loader: BatchLoader) -> dict:
    """For evaluation.json: the reader's findings by kind, and how many images could not be decoded."""
    counts = {
        "left_out": dict(Counter(problem.kind for problem in left_out)),
        "broken_images": len(loader.problems),
    }
    return {name: count for name, count in counts.items() if count}


def fault_lines(left_out: Sequence[Problem], loader: BatchLoader) -> list[str]:
    """The same as lines of text. What the reader left out makes the evaluated set smaller."""
    kinds = Counter(problem.kind for problem in left_out)
    by_kind = ", ".join(f"{count} {KINDS[kind].title}" for kind, count in kinds.items())
    lines = []
    if by_kind:
        lines.append(f"left out of the set, named above, so that it does not count at all: {by_kind}\n")
    if broken := loader.summary():
        lines.append(f"images left out, named above, their boxes count as missed: {broken}\n")
    return lines


def file_suffix(checkpoint: Path, split: str) -> str:
    """What the names of the written files end with.

    evaluation.json, which compare reads, is best.pt's on `val`. Other splits and checkpoints get files of
    their own.
    """
    other = checkpoint.name != ckpt.BEST and (checkpoint.parent / ckpt.BEST).exists()
    return ("" if split == "val" else f"_{split}") + (f"_{checkpoint.stem}" if other else "")


def with_data(config: Config, settings: EvaluateConfig) -> Config:
    """The run's configuration with the data settings given to evaluate.py over its own.

    ValueError if they name images that the run was trained on.
    """
    if not settings.data:
        return config
    changed = check(OmegaConf.merge(to_plain(config), {"data": settings.data}))
    split = settings.split
    seen = [] if split == "train" else trained_on(config.data, changed.data, split)
    if seen:
        raise ValueError(
            f"data.{split}={getattr(changed.data, split)}: the run was trained on {', '.join(seen)}; "
            "choose images that it has not seen, or split=train, which says what the number is"
        )
    return changed


def trained_on(before: DataConfig, now: DataConfig, split: str) -> list[str]:
    """The image sets of a split that a run was trained on.

    VOC's trainval is train and val; roots may have moved.
    """
    if Path(before.root).name != Path(now.root).name:
        return []
    seen = {part for name in before.train for part in _parts(name)}
    return [name for name in getattr(now, split) if seen & _parts(name)]


def _parts(image_set: str) -> set[str]:
    """VOC2012/trainval -> VOC2012/train, VOC2012/val"""
    year, slash, name = image_set.rpartition("/")
    return {f"{year}{slash}{part}" for part in (("train", "val") if name == "trainval" else (name,))}


if __name__ == "__main__":
    main()
