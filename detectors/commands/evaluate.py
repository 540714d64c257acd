"""Evaluates a checkpoint: python evaluate.py run=RUN_OR_CHECKPOINT [split=test].

A classifier's evaluation is evaluation.json and predictions.csv, a line for each image.

Writes evaluation.json, detections.json (COCO's results format) and detections.npz (with the ground truth)
beside the checkpoint. Their names say what was evaluated: see file_suffix.

python evaluate.py detections=FILE data=... split=... evaluates saved detections, of other programs too,
without a network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from detectors.annotations import Annotations
from detectors.config.check import check
from detectors.config.evaluation_data import data_alone, same_files, with_cache, with_data
from detectors.config.schema import EvaluateConfig, InputConfig
from detectors.data.checks import settled
from detectors.data.files import write_json, write_text
from detectors.data.loading import BatchLoader
from detectors.data.problems import KINDS, Problem
from detectors.kernels.dispatch import set_kernels
from detectors.metrics.class_report import class_report, predictions_csv
from detectors.metrics.coco import coco_results, evaluate_coco
from detectors.metrics.coco_reference import evaluate_with_pycocotools
from detectors.metrics.report import Report, on_images_with_boxes, report
from detectors.metrics.tree_report import TaughtNodes
from detectors.metrics.variants import ap_variants, clipped_to_images, variants_text
from detectors.models.classifier import Classifier
from detectors.models.detector import Detector
from detectors.structures import Detections
from detectors.training import assemble, ground_truth
from detectors.training import checkpoint as ckpt
from detectors.training.classification import ClassificationTask, guess
from detectors.training.detection import DetectionTask, detect
from detectors.training.detections_file import write_detections
from detectors.training.evaluation_files import data_label, file_suffix, is_recorded
from detectors.training.joint_truth import taught_nodes
from detectors.training.outcome import device_name
from detectors.training.precision import backend_switches
from detectors.training.saved_detections import find_saved, known_of, load_saved

LIMITS = ("candidates_per_class", "max_detections")
PROTOCOL = ("score_threshold", "nms_iou", "nms", *LIMITS)  # settings of post-processing that decide AP, too
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
    if cfg.detections is not None:
        return evaluate_saved(check(cfg, EvaluateConfig))
    if names := next((text for text in overrides if text.startswith("data.class_names=")), None):
        raise ValueError(f"{names}: the classes are those that the detector was trained on; leave it out")
    own_cache = any(override.startswith("paths.cache=") for override in overrides)
    return evaluate(check(cfg, EvaluateConfig), own_cache=own_cache)


def evaluate(settings: EvaluateConfig, *, own_cache: bool = False) -> float | None:
    """Evaluates as the settings say, prints the numbers and writes them. Returns COCO's AP, or the accuracy.

    own_cache: settings.paths.cache takes the place of the run's.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    set_kernels(settings.kernels)
    device = assemble.choose_device(settings.device)
    stored = ckpt.load_checkpoint(ckpt.find_checkpoint(settings.run, f"{settings.checkpoint}.pt"))
    network, run_config = assemble.load_network(stored, device)
    config = with_data(with_cache(run_config, settings.paths.cache) if own_cache else run_config, settings)
    measure = measured_classes if assemble.is_classifier(stored) else measured_detections
    protocol = settled_protocol(network, settings, stored.path)
    scanned = ground_truth.scan_annotations(config.data, settings.split, stored.class_names)
    annotations = settled(scanned, config.data.on_error)
    loader = assemble.eval_loader(config, annotations, batch_size=settings.batch_size)
    with backend_switches(config.trainer):
        tree = ground_truth.trained_tree(run_config.data)
        measured = measure(network, loader, annotations, settings, config.trainer.precision, tree)
    content = {
        "task": config.task,
        "checkpoint": stored.path.name,
        "step": stored.step,
        "data": config.data.name,
        "split": settings.split,
        "protocol": {**protocol, "resize": input_handling(config.input, annotations)},
        **measured.numbers,
        "inference_images_per_second": len(annotations) / max(measured.seconds, 1e-9),
        "device": device_name(device),
        **fault_counts(scanned[1], loader),
    }
    where = f"{config.data.name} {settings.split} ({len(annotations)} images)"
    kind = ", averaged weights" if stored.ema else ""
    print(f"{stored.path}, step {stored.step}{kind}, on {where}\n{measured.text}")
    print(*fault_lines(scanned[1], loader), sep="", end="")
    own = same_files(run_config.data, config.data) or is_recorded(
        content["truths_hash"], stored.path, settings.split
    )
    suffix = file_suffix(stored.path, settings.split, "" if own else data_label(content))
    folder = stored.path.parent
    write_json(folder / f"evaluation{suffix}.json", content)
    measured.write(folder, suffix)
    print(f"written: {folder / f'evaluation{suffix}.json'}")
    return measured.metric


class MeasuredSplit(NamedTuple):
    """What a task has measured on a split."""

    metric: float | None
    numbers: dict  # the task's part of evaluation.json
    text: str
    seconds: float  # without loading
    write: Callable[[Path, str], None]  # the other files: folder, end of their names


def measured_detections(
    detector: Detector,
    loader: BatchLoader,
    annotations: Annotations,
    settings: EvaluateConfig,
    precision: str,
    tree: TaughtNodes | None,
) -> MeasuredSplit:
    """A detector's numbers; its detections are written in COCO's format and with the ground truth."""
    unclipped, seconds = detect(
        detector,
        loader,
        detector.pixel_mean.device,
        progress=settings.progress,
        precision=precision,
        clip=False,
    )
    unclipped = on_images_with_boxes(annotations, unclipped)
    detections = clipped_to_images(annotations, unclipped)
    result, numbers, text = evaluated_numbers(
        annotations, detections, settings.evaluators, unclipped, tree=tree
    )

    def write(folder: Path, suffix: str) -> None:
        results = coco_results(annotations, detections)
        write_json(folder / f"detections{suffix}.json", results, indent=None)
        write_detections(folder / f"detections{suffix}.npz", annotations, detections)

    return MeasuredSplit(result.scalars[DetectionTask.metric], numbers, text, seconds, write)


def measured_classes(
    classifier: Classifier,
    loader: BatchLoader,
    annotations: Annotations,
    settings: EvaluateConfig,
    precision: str,
    tree: TaughtNodes | None,
) -> MeasuredSplit:
    """A classifier's numbers; its answers are written line by line."""
    guesses, seconds = guess(
        classifier,
        loader,
        classifier.pixel_mean.device,
        progress=settings.progress,
        precision=precision,
    )
    result = class_report(annotations, guesses, tree)

    def write(folder: Path, suffix: str) -> None:
        write_text(folder / f"predictions{suffix}.csv", predictions_csv(annotations, guesses))

    metric = result.scalars[ClassificationTask.metric]
    return MeasuredSplit(metric, result.as_dict(), result.table(), seconds, write)


def settled_protocol(
    network: Detector | Classifier, settings: EvaluateConfig, checkpoint: Path
) -> dict[str, float | int | str | None]:
    """Gives the post-processing the settings that are not null; returns all of them, None for no limit.

    ValueError for such a setting if the network is a classifier, which has no post-processing.
    """
    postprocess = network.postprocess if isinstance(network, Detector) else None
    protocol = {}
    for name in PROTOCOL:
        value = getattr(settings, name)
        if postprocess is None and value is not None:
            raise ValueError(f"{name}={value}: is for detectors, and {checkpoint} is a classifier")
        if value is not None:
            setattr(postprocess, name, value or None if name in LIMITS else value)
        if postprocess is not None:
            protocol[name] = getattr(postprocess, name)
    return protocol


def evaluated_numbers(
    annotations: Annotations,
    detections: Detections,
    evaluators: str,
    unclipped: Detections | None = None,
    *,
    tree: TaughtNodes | None = None,
) -> tuple[Report, dict, str]:
    """The report, its part of evaluation.json, and its text. unclipped: see ap_variants."""
    result = report(annotations, detections, COCO_EVALUATORS[evaluators], tree)
    numbers = {"evaluators": evaluators, **result.as_dict()}
    text = result.table()
    if evaluators == SIDE_BY_SIDE:
        variants = ap_variants(annotations, detections, result.scalars, unclipped)
        numbers["variants"] = [row.as_dict(variants[0]) for row in variants]
        text += f"\n\n{variants_text(variants)}\n"
    return result, numbers, text


def evaluate_saved(settings: EvaluateConfig) -> float | None:
    """Evaluates saved detections as the settings say, prints the numbers and writes them. Returns COCO's AP.

    The files lie in a folder that `detectors compare` takes like a run's.
    """
    place = find_saved(settings.detections)
    known = known_of(place)
    data = data_alone(settings) if settings.data else None
    truths = partial(ground_truth.read_annotations, data, settings.split) if data else None
    saved = load_saved(place, truths)
    if data:
        known |= {"data": data.name, "split": settings.split}
    name = str(known.get("data", "data of an unknown name"))
    tree = taught_nodes(data, None) if data else None
    result, numbers, text = evaluated_numbers(
        saved.annotations, saved.detections, settings.evaluators, tree=tree
    )
    content = {
        "name": place.base.name,
        "detections_of": settings.detections,
        "format": saved.kind,
        "split": settings.split,
        **known,
        "data": name,
        **numbers,
    }
    print(
        f"{settings.detections} ({saved.kind}), on {name} {content['split']} ({result.images} images)\n{text}"
    )
    for note in saved.notes:
        print(f"note: {note}")
    folder = Path(settings.output or f"{place.base}_evaluated")
    suffix = "" if content["split"] == "val" else f"_{content['split']}"
    write_detections(folder / f"detections{suffix}.npz", saved.annotations, saved.detections)
    write_json(folder / f"evaluation{suffix}.json", content)
    print(f"written: {folder / f'evaluation{suffix}.json'}")
    return result.scalars[DetectionTask.metric]


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
