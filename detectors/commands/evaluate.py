"""Evaluates a checkpoint: python evaluate.py run=RUN_OR_CHECKPOINT [split=test].

Writes evaluation.json, detections.json (COCO's results format) and detections.npz (with the ground truth)
beside the checkpoint. Their names say what was evaluated: see file_suffix.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from detectors.annotations import Annotations
from detectors.config.check import check
from detectors.config.schema import Config, DataConfig, EvaluateConfig, InputConfig, to_plain
from detectors.data.checks import settled
from detectors.data.files import write_json
from detectors.data.loading import BatchLoader
from detectors.data.problems import KINDS, Problem
from detectors.kernels.dispatch import set_kernels
from detectors.metrics.coco import coco_results, evaluate_coco
from detectors.metrics.coco_reference import evaluate_with_pycocotools
from detectors.metrics.report import report
from detectors.metrics.variants import ApVariant, ap_variants, clipped_to_images, variants_text
from detectors.postprocess import PostProcess
from detectors.training import assemble
from detectors.training import checkpoint as ckpt
from detectors.training.detection import DetectionTask, detect
from detectors.training.detections_file import write_detections
from detectors.training.outcome import device_name
from detectors.training.precision import backend_switches
from detectors.training.run_files import SUMMARY, read_record

# Settings of `data` that do not name files.
LOADING = (
    "on_error",
    "allow_empty_classes",
    "cache",
    "workers",
    "prefetch",
    "timeout",
    "image_cache",
    "reduced_decode",
    "max_pixels",
)
LIMITS = ("candidates_per_class", "max_detections")
PROTOCOL = ("score_threshold", "nms_iou", *LIMITS)  # settings of post-processing that decide AP, too
ANY_RESIZE = "any"
SIDE_BY_SIDE = "all"
COCO_EVALUATORS = {
    "arrays": evaluate_coco,
    "pycocotools": evaluate_with_pycocotools,
    SIDE_BY_SIDE: evaluate_coco,
}


def main(cfg: DictConfig) -> float | None:
    """Returns COCO's AP."""
    overrides = [override.lstrip("+") for override in HydraConfig.get().overrides.task]
    if names := next((text for text in overrides if text.startswith("data.class_names=")), None):
        raise ValueError(f"{names}: the classes are those that the detector was trained on; leave it out")
    own_cache = any(override.startswith("paths.cache=") for override in overrides)
    return evaluate(check(cfg, EvaluateConfig), own_cache=own_cache)


def evaluate(settings: EvaluateConfig, *, own_cache: bool = False) -> float | None:
    """Evaluates as the settings say, prints the numbers and writes them. Returns COCO's AP.

    own_cache: settings.paths.cache takes the place of the run's.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    set_kernels(settings.kernels)
    device = assemble.choose_device(settings.device)
    stored = ckpt.load_checkpoint(ckpt.find_checkpoint(settings.run, f"{settings.checkpoint}.pt"))
    detector, run_config = assemble.load_detector(stored, device)
    protocol = settled_protocol(detector.postprocess, settings)
    config = with_data(with_cache(run_config, settings.paths.cache) if own_cache else run_config, settings)
    scanned = assemble.scan_annotations(config.data, settings.split, stored.class_names)
    annotations = settled(scanned, config.data.on_error)
    loader = assemble.eval_loader(config, annotations, batch_size=settings.batch_size)
    precision = config.trainer.precision
    with backend_switches(config.trainer):
        unclipped, seconds = detect(
            detector, loader, device, progress=settings.progress, precision=precision, clip=False
        )
    detections = clipped_to_images(annotations, unclipped)
    result = report(annotations, detections, COCO_EVALUATORS[settings.evaluators])
    variants = []
    if settings.evaluators == SIDE_BY_SIDE:
        variants = ap_variants(annotations, detections, result.scalars, unclipped)
    content = {
        "checkpoint": stored.path.name,
        "step": stored.step,
        "data": config.data.name,
        "split": settings.split,
        "evaluators": settings.evaluators,
        "protocol": {**protocol, "resize": input_handling(config.input, annotations)},
        **result.as_dict(),
        **variants_part(variants),
        "inference_images_per_second": len(annotations) / max(seconds, 1e-9),
        "device": device_name(device),
        **fault_counts(scanned[1], loader),
    }
    where = f"{config.data.name} {settings.split} ({len(annotations)} images)"
    kind = ", averaged weights" if stored.ema else ""
    print(f"{stored.path}, step {stored.step}{kind}, on {where}\n{result.table()}")
    print(*fault_lines(scanned[1], loader), sep="", end="")
    if variants:
        print(f"\n{variants_text(variants)}\n")
    own = same_files(run_config.data, config.data) or is_recorded(
        result.truths_hash, stored.path, settings.split
    )
    suffix = file_suffix(stored.path, settings.split, "" if own else data_label(content))
    folder = stored.path.parent
    target = folder / f"evaluation{suffix}.json"
    write_json(target, content)
    write_json(folder / f"detections{suffix}.json", coco_results(annotations, detections), indent=None)
    write_detections(folder / f"detections{suffix}.npz", annotations, detections)
    print(f"written: {target}")
    return result.scalars[DetectionTask.metric]


def settled_protocol(postprocess: PostProcess, settings: EvaluateConfig) -> dict[str, float | int | None]:
    """Gives the post-processing the settings that are not null; returns all of them, None for no limit."""
    protocol = {}
    for name in PROTOCOL:
        if (value := getattr(settings, name)) is not None:
            setattr(postprocess, name, value or None if name in LIMITS else value)
        protocol[name] = getattr(postprocess, name)
    return protocol


def variants_part(variants: Sequence[ApVariant]) -> dict[str, list[dict]]:
    """For evaluation.json; empty without variants."""
    return {"variants": [row.as_dict(variants[0]) for row in variants]} if variants else {}


def input_handling(settings: InputConfig, annotations: Annotations) -> str:
    """input.resize; ANY_RESIZE where it makes no difference, because all images have the input's shape."""
    height, width = settings.size
    alike = annotations.sizes[:, 0] * width == annotations.sizes[:, 1] * height
    return ANY_RESIZE if alike.all() else settings.resize


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


def file_suffix(checkpoint: Path, split: str, other_data: str = "") -> str:
    """What the names of the written files end with.

    evaluation.json, which compare reads, is best.pt's on `val` of the run's own data, or last.pt's in a run
    without best.pt. Other splits, checkpoints and data get files of their own. other_data: the data_label of
    data that are not the run's.
    """
    main_checkpoint = ckpt.BEST if (checkpoint.parent / ckpt.BEST).exists() else ckpt.LAST
    parts = (
        "" if split == "val" else split,
        "" if checkpoint.name in (ckpt.BEST, main_checkpoint) else checkpoint.stem,
        other_data,
    )
    return "".join(f"_{part}" for part in parts if part)


def data_label(content: dict) -> str:
    """NAME_HASH of the data of an evaluation, for a file name."""
    return f"{re.sub('[^0-9A-Za-z.-]+', '-', content['data'])}_{content['truths_hash'][:8]}"


def same_files(before: DataConfig, now: DataConfig) -> bool:
    """Whether two settings name the same ground truth in the same place."""
    elsewhere = ("root",) if now.format == "shapes" else ()  # generated images are the same in any cache
    return replace(before, **{name: getattr(now, name) for name in (*LOADING, *elsewhere)}) == now


def is_recorded(truths: str, checkpoint: Path, split: str) -> bool:
    """Whether a truths_hash is known as that of the run's own data, which may have moved.

    It is in summary.json, for `val`, and in an earlier evaluation of the split.
    """
    own = [_recorded(checkpoint.parent / f"evaluation{file_suffix(checkpoint, split)}.json")]
    if split == "val":
        own.append(_recorded(checkpoint.parent / SUMMARY, "validation"))
    return truths in own


def _recorded(path: Path, group: str | None = None) -> object:
    """The truths_hash in a JSON file; None if there is none, or the file is not usable."""
    try:
        content = read_record(path, "")
    except (FileNotFoundError, ValueError):
        return None
    part = content if group is None else content.get(group)
    return part.get("truths_hash") if isinstance(part, dict) else None


def with_cache(config: Config, cache: str) -> Config:
    """The configuration with another paths.cache, and the settings that follow from it."""
    data = replace(config.data, cache=config.data.cache and f"{cache}/annotations")
    if data.format == "shapes":
        data.root = cache
    return replace(config, data=data, paths=replace(config.paths, cache=cache))


def with_data(config: Config, settings: EvaluateConfig) -> Config:
    """The run's configuration with the data settings given to evaluate.py over its own.

    Another data set, as data=voc names one, keeps no split, class list or cache of the run's. A data.root
    alone is the run's own set, moved. ValueError for images that the run was trained on.
    """
    if not settings.data:
        return config
    base = to_plain(config)
    if {"name", "format"} <= settings.data.keys():  # as every yaml of conf/data does
        base["data"] = {name: base["data"][name] for name in LOADING}
        if settings.paths.cache != MISSING:
            base["data"]["cache"] = f"{settings.paths.cache}/annotations"
            base["paths"]["cache"] = settings.paths.cache
    changed = check(OmegaConf.merge(base, {"data": settings.data}))
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
