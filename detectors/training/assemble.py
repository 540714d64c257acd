"""From a checked configuration to the parts of a run: batches, device, network; and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from detectors.annotations import Annotations
from detectors.config.build import build
from detectors.config.check import ConfigError, check
from detectors.config.devices import device_problem
from detectors.config.schema import ARRAY_FORMATS, AUTO, CLASSIFICATION, Config
from detectors.data.augment.mixing import Mixing
from detectors.data.augment.transforms import build_transform, no_augmentation
from detectors.data.dataset import DetectionDataset
from detectors.data.image_cache import open_cache
from detectors.data.images import ImageReader
from detectors.data.joint import JointReader, array_beginnings
from detectors.data.labelled_dataset import LabelledDataset
from detectors.data.loading import BatchLoader, build_eval_loader, build_train_loader
from detectors.data.sampling import MultiScale
from detectors.data.torchvision_sets import ArrayReader
from detectors.kernels.dispatch import version
from detectors.models.classifier import Classifier
from detectors.models.detector import Detector
from detectors.training.checkpoint import Checkpoint
from detectors.training.checkpoint_checks import GO_ON, check_model_state
from detectors.training.distributed import ALONE, Processes
from detectors.training.joint_truth import source_mix


def dataset_class(config: Config) -> type[DetectionDataset]:
    return LabelledDataset if config.task == CLASSIFICATION else DetectionDataset


def train_dataset(config: Config, annotations: Annotations) -> DetectionDataset:
    """What training sees: dataset[Key(epoch, index, size)] is one augmented Sample."""
    transform = build_transform(
        augment=build(config.augment),
        size=tuple(config.input.size),
        resize=config.input.resize,
        train=True,
    )
    return dataset_class(config)(
        annotations,
        transform,
        seed=config.seed,
        use_difficult=config.data.train_difficult,
        on_error={"stop": "stop", "skip": "replace"}[config.data.on_error],
        mixing=Mixing(config.mixing.mosaic, config.mixing.mixup),
        reader=image_reader(config, annotations, config.data.image_cache),
        mix=source_mix(config.data, annotations),
    )


def image_reader(
    config: Config, annotations: Annotations, kind: str
) -> ImageReader | ArrayReader | JointReader:
    """Decodes images, and keeps them as `kind` says: none, ram or disk. Arrays are in memory anyway."""
    if config.data.format in ARRAY_FORMATS:
        return ArrayReader(annotations, config.data.format, config.data.root)
    cache = open_cache(kind, annotations, Path(config.paths.cache) / "images")
    data = config.data
    reader = ImageReader(annotations, cache=cache, reduced=data.reduced_decode, max_pixels=data.max_pixels)
    in_memory = [(it.format, it.root) for it in data.mix.values() if it.format in ARRAY_FORMATS]
    return JointReader(reader, array_beginnings(in_memory)) if in_memory else reader


def train_loader(
    config: Config,
    annotations: Annotations,
    *,
    start_step: int,
    start_image: int | None = None,
    processes: Processes = ALONE,
) -> BatchLoader:
    """Batches from optimiser step `start_step` to the end; each step takes `accumulate` of them.

    They are this process's share. start_image: see ResumableSampler.
    """
    trainer = config.trainer
    scales = multi_scale(config)
    return build_train_loader(
        train_dataset(config, annotations),
        batch_size=trainer.batch_size,
        workers=config.data.workers,
        prefetch=config.data.prefetch,
        batch_timeout=config.data.timeout,
        start_step=start_step * trainer.accumulate,
        start_image=start_image,
        steps=trainer.steps * trainer.accumulate,
        size_of=scales and (lambda batch: scales(batch // trainer.accumulate)),
        rank=processes.rank,
        world_size=processes.world_size,
    )


def multi_scale(config: Config) -> MultiScale | None:
    """Optimiser step -> input size; None if all steps have input.size."""
    scales = config.input.multi_scale
    if scales is None or not scales.sides():
        return None
    return MultiScale(
        scales.sides(),
        every=scales.every,
        final_steps=scales.final_steps,
        steps=config.trainer.steps,
        seed=config.seed,
    )


def eval_loader(
    config: Config,
    annotations: Annotations,
    *,
    batch_size: int,
    repeated: bool = False,
    processes: Processes = ALONE,
) -> BatchLoader:
    """Every image once, in order; of several processes, this one's share.

    repeated: used more than once, so that caching images in memory pays.
    """
    transform = build_transform(
        augment=no_augmentation(),
        size=tuple(config.input.size),
        resize=config.input.resize,
        train=False,
    )
    data = config.data
    kind = data.image_cache if repeated or data.image_cache != "ram" else "none"
    dataset = dataset_class(config)(
        annotations,
        transform,
        seed=config.seed,
        use_difficult=config.data.train_difficult,
        on_error={"stop": "stop", "skip": "leave_out"}[data.on_error],
        reader=image_reader(config, annotations, kind),
    )
    return build_eval_loader(
        dataset,
        batch_size=batch_size,
        workers=data.workers,
        prefetch=data.prefetch,
        batch_timeout=data.timeout,
        rank=processes.rank,
        world_size=processes.world_size,
    )


def choose_device(name: str, processes: Processes = ALONE) -> torch.device:
    """'auto' takes a GPU if there is one; cuda:1 is the second one. Each of several processes takes its own.

    ValueError for another name, for a GPU that is not there, or if set_kernels chose kernels that cannot run
    on the device.
    """
    if text := device_problem(name):
        raise ValueError(f"device={name!r}: {text}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = processes.own_device(torch.device(name))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name}: PyTorch sees no GPU here; set device=cpu or device=auto")
    if device.index is not None:
        if device.index >= torch.cuda.device_count():
            last = torch.cuda.device_count() - 1
            raise ValueError(f"device={name}: PyTorch sees no such GPU here; the last one is cuda:{last}")
        torch.cuda.set_device(device)  # so that its generator is the one that checkpoints store
    version(device)  # raises if kernels=triton cannot be
    return device


def build_detector(config: Config, num_classes: int) -> Detector:
    """A new detector; its weights are drawn from config.seed. The program's own random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would seed the GPUs, too
        return _new_detector(config, num_classes)


def seeded_detector(config: Config, num_classes: int) -> Detector:
    """build_detector's for a program that trains: all of PyTorch's generators go on from config.seed."""
    torch.manual_seed(config.seed)
    return _new_detector(config, num_classes)


def _new_detector(config: Config, num_classes: int) -> Detector:
    detector = build(config.model, num_classes=num_classes, loss=build(config.loss))
    if config.trainer.memory_format != AUTO:
        detector.set_memory_format(config.trainer.memory_format)
    return detector


def stored_config(checkpoint: Checkpoint) -> Config:
    """A checkpoint's configuration, checked. ValueError that names the checkpoint if it is not valid."""
    try:
        return check(checkpoint.config)
    except ConfigError as error:
        problems = "; ".join(error.problems)
        raise ValueError(f"{checkpoint.path}: its configuration is not valid: {problems}; {GO_ON}") from error


def load_detector(checkpoint: Checkpoint, device: torch.device) -> tuple[Detector, Config]:
    """A checkpoint's detector in evaluation mode, with its averaged weights if it has some, and its
    configuration.

    ValueError if the weights do not fit it, or for a classifier.
    """
    if is_classifier(checkpoint):
        raise ValueError(
            f"{checkpoint.path}: it holds a classifier, and this needs a detector; evaluate.py and "
            "detectors predict take classifiers"
        )
    return load_network(checkpoint, device)


def is_classifier(checkpoint: Checkpoint) -> bool:
    return checkpoint.config.get("task") == CLASSIFICATION


def load_network(checkpoint: Checkpoint, device: torch.device) -> tuple[Detector | Classifier, Config]:
    """load_detector for a network of either task."""
    config = stored_config(checkpoint)
    detector = build_detector(config, len(checkpoint.class_names))
    load_state(detector, checkpoint.weights, checkpoint.path)
    return detector.to(device).eval(), config


def load_state(detector: Detector, weights: Mapping[str, Tensor], path: Path) -> None:
    """Weights of the checkpoint `path` into a detector of the same shape. ValueError if they do not fit."""
    check_model_state(detector.state_dict(), weights, str(path))
    detector.load_state_dict(weights)
