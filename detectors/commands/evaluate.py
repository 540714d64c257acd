"""Evaluates a checkpoint: python evaluate.py run=RUN_OR_CHECKPOINT [split=test]. Writes evaluation.json (COCO results too) beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from detectors.config.check import check
from detectors.config.entry import entry_point
from detectors.config.schema import Config, DataConfig, EvaluateConfig
from detectors.data.checks import settled
from detectors.data.loading import BatchLoader
from detectors.data.problems import KINDS, Problem
from detectors.metrics.coco import write_results_json
from detectors.metrics.report import report
from detectors.training import assemble, engine
from detectors.training import checkpoint as ckpt


@entry_point("evaluate")
def main(cfg: DictConfig) -> float | None:
    """Returns COCO's AP."""
    asked = check(cfg, EvaluateConfig)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    device = assemble.choose_device(asked.device)
    stored = ckpt.load_checkpoint(ckpt.find_checkpoint(asked.run, f"{asked.checkpoint}.pt"))
    detector, config = assemble.load_detector(stored, device)
    config = with_data(config, asked)
    scanned = assemble.scan_annotations(config.data, asked.split, stored.class_names)
    annotations = settled(scanned, config.data.on_error)
    loader = assemble.eval_loader(config, annotations, batch_size=asked.batch_size)
    detections, seconds = engine.detect(detector, loader, device, progress=asked.progress)
    result = report(annotations, detections)
    content = {
        "checkpoint": stored.path.name,
        "step": stored.step,
        "data": config.data.name,
        "split": asked.split,
        **result.as_dict(),
        "inference_images_per_second": len(annotations) / max(seconds, 1e-9),
        "device": engine.device_name(device),
        **counted_faults(scanned[1], loader),
    }
    folder, suffix = stored.path.parent, file_suffix(stored.path, asked.split)
    (folder / f"evaluation{suffix}.json").write_text(json.dumps(content, indent=1) + "\n")
    write_results_json(annotations, detections, folder / f"detections{suffix}.json")
    print(
        f"{stored.path}, step {stored.step}, on {config.data.name} {asked.split} ({len(annotations)} images)\n{result.table()}"
    )
    print(*told_faults(scanned[1], loader), sep="", end="")
    print(f"written: {folder / f'evaluation{suffix}.json'}")
    return result.scalars[engine.METRIC]


def counted_faults(left_out: Sequence[Problem], loader: BatchLoader) -> dict:
    """What was not measured on, for evaluation.json: findings of the reader by kind, and images that turned out to be useless."""
    counts = {
        "left_out": dict(Counter(problem.kind for problem in left_out)),
        "broken_images": len(loader.problems),
    }
    return {name: count for name, count in counts.items() if count}


def told_faults(left_out: Sequence[Problem], loader: BatchLoader) -> list[str]:
    """The same in lines. What the reader left out is not among the truths: the numbers are those of a smaller set."""
    kinds = Counter(problem.kind for problem in left_out)
    texts = {
        "left out of the set, named above, so that it does not count at all": ", ".join(
            f"{n} {KINDS[kind].title}" for kind, n in kinds.items()
        ),
        "images left out, named above, their truths count as missed": loader.summary(),
    }
    return [f"{what}: {text}\n" for what, text in texts.items() if text]


def file_suffix(checkpoint: Path, split: str) -> str:
    """evaluation.json is best.pt's on `val`, which compare reads; another split or checkpoint of a run has a file of its own."""
    other = checkpoint.name != ckpt.BEST and (checkpoint.parent / ckpt.BEST).exists()
    return ("" if split == "val" else f"_{split}") + (f"_{checkpoint.stem}" if other else "")


def with_data(config: Config, asked: EvaluateConfig) -> Config:
    """The run's configuration with the data settings that were given to evaluate.py put over its own.

    ValueError if what was asked for in that way is known to the run: AP on training images says nothing.
    """
    if not asked.data:
        return config
    changed = check(OmegaConf.merge(asdict(config), {"data": asked.data}))
    if asked.split != "train" and (seen := trained_on(config.data, changed.data, asked.split)):
        what = f"data.{asked.split}={getattr(changed.data, asked.split)}: the run was trained on {', '.join(seen)}"
        raise ValueError(
            f"{what}; choose images that it has not seen, or split=train, which says what the number is"
        )
    return changed


def trained_on(before: DataConfig, now: DataConfig, split: str) -> list[str]:
    """Image sets of a split that a run was trained on, by their names; VOC's trainval is train and val. Roots may have moved."""
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
