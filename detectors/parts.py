"""From a checked configuration to the parts of a run: data, detector, optimiser; and back from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from detectors.building import build
from detectors.checking import check
from detectors.checkpoint import Checkpoint
from detectors.config import Config, DataConfig
from detectors.data.coco import read_coco
from detectors.data.loading import BatchLoader, DetectionDataset, build_eval_loader, build_train_loader
from detectors.data.shapes import write_shapes
from detectors.data.transforms import build_transform
from detectors.data.voc import read_voc
from detectors.models.detector import Detector
from detectors.structures import Annotations


def read_annotations(data: DataConfig, split: str, class_names: list[str] | None = None) -> Annotations:
    """split: train, val or test. class_names: those of the training split, where the configuration leaves them to the files."""
    image_sets = getattr(data, split)
    names = list(class_names) if class_names is not None else data.class_names
    if not image_sets:
        raise ValueError(f"data.{split} is empty: {data.name} has no such split; set data.{split}=[...]")
    if data.format == "coco":
        if len(image_sets) != 1:
            raise ValueError(f"data.{split}={image_sets}: COCO's format takes one annotation file for each split")
        root, folder = Path(data.root), getattr(data.image_folders, split)
        if folder is None:
            raise ValueError(f"data.image_folders.{split} is missing: name the folder of the images of {image_sets[0]}, relative to {root}")
        return read_coco(
            annotation_file=root / image_sets[0], image_folder=root / folder, class_names=names, on_degenerate=data.on_degenerate
        )
    root = data.root
    if data.format == "shapes":
        root = write_shapes(folder=root, seed=data.shapes.seed, train=data.shapes.train, val=data.shapes.val, size=data.shapes.size)
    return read_voc(root=root, image_sets=image_sets, class_names=names, on_degenerate=data.on_degenerate)


def build_detector(config: Config, num_classes: int) -> Detector:
    """Weights are drawn from config.seed."""
    torch.manual_seed(config.seed)
    return build(config.model, num_classes=num_classes, loss=build(config.loss))


def train_loader(config: Config, annotations: Annotations, *, start_step: int) -> BatchLoader:
    """Batches from optimiser step `start_step` to the end; each step takes `accumulate` of them."""
    size, trainer = tuple(config.input.size), config.trainer
    transform = build_transform(augment=config.augment.name, size=size, resize=config.input.resize, train=True)
    dataset = DetectionDataset(annotations, transform, seed=config.seed, use_difficult=config.data.train_difficult)
    parts = trainer.accumulate
    return build_train_loader(
        dataset, batch_size=trainer.batch_size, workers=config.data.workers, start_step=start_step * parts, steps=trainer.steps * parts
    )


def eval_loader(config: Config, annotations: Annotations, *, batch_size: int) -> BatchLoader:
    transform = build_transform(augment="none", size=tuple(config.input.size), resize=config.input.resize, train=False)
    dataset = DetectionDataset(annotations, transform, seed=config.seed)
    return build_eval_loader(dataset, batch_size=batch_size, workers=config.data.workers)


def choose_device(name: str) -> torch.device:
    """'auto' takes a GPU if there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: PyTorch sees no GPU here; set device=cpu or device=auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def load_detector(checkpoint: Checkpoint, device: torch.device) -> tuple[Detector, Config]:
    """The detector of a checkpoint in evaluation mode, and its configuration. ValueError if the weights do not fit it."""
    config = check(checkpoint.config)
    detector = build_detector(config, len(checkpoint.class_names))
    load_weights(detector, checkpoint)
    return detector.to(device).eval(), config


def load_weights(detector: Detector, checkpoint: Checkpoint) -> None:
    try:
        detector.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        raise ValueError(
            f"{checkpoint.path}: its weights do not fit the configuration that it names ({str(error).splitlines()[-1].strip()})"
        ) from error
