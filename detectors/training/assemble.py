"""From a checked configuration to the parts of a run: ground truth, batches, detector; and back from a
checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from detectors.annotations import Annotations
from detectors.config.build import build
from detectors.config.check import ConfigError, check
from detectors.config.devices import device_problem
from detectors.config.schema import ARRAY_FORMATS, AUTO, CLASSIFICATION, SPLITS, Config, DataConfig
from detectors.data.annotation_cache import Scanned, cached
from detectors.data.augment.mixing import Mixing
from detectors.data.augment.transforms import build_transform, no_augmentation
from detectors.data.checks import settled
from detectors.data.coco import coco_sources, scan_coco
from detectors.data.darknet_labels import darknet_sources, scan_darknet
from detectors.data.image_cache import open_cache
from detectors.data.image_folder import image_folder_sources, scan_image_folder
from detectors.data.images import ImageReader
from detectors.data.labelled_dataset import LabelledDataset
from detectors.data.labelled_sets import box_crops, shared_out
from detectors.data.loading import BatchLoader, DetectionDataset, build_eval_loader, build_train_loader
from detectors.data.sampling import MultiScale
from detectors.data.shapes import write_shapes
from detectors.data.suggestions import did_you_mean
from detectors.data.torchvision_sets import ArrayReader, read_arrays
from detectors.data.voc import scan_voc, voc_sources
from detectors.kernels.dispatch import version
from detectors.models.classifier import Classifier
from detectors.models.detector import Detector
from detectors.training.checkpoint import Checkpoint
from detectors.training.checkpoint_checks import GO_ON, check_model_state
from detectors.training.distributed import ALONE, Processes

logger = logging.getLogger(__name__)

BY_ID = ("coco", "darknet", *ARRAY_FORMATS)  # formats whose classes have numbers; the others' are sorted


def read_annotations(data: DataConfig, split: str, class_names: Sequence[str] | None = None) -> Annotations:
    """Ground truth as scan_annotations gives it.

    A faulty file raises, or is logged and skipped: data.on_error decides.
    """
    return settled(scan_annotations(data, split, class_names), data.on_error)


def scan_annotations(data: DataConfig, split: str, class_names: Sequence[str] | None = None) -> Scanned:
    """A split's ground truth, and the findings about everything that was left out of it.

    Uses the cache in data.cache.

    split: train, val or test. class_names: those of a trained detector, in place of data.class_names. Without
    either, the classes are all those that the annotations of any split name. FileNotFoundError or ValueError
    if a folder, a split list or a whole file is wrong.
    """
    names = data.class_names if class_names is None else list(class_names)
    if data.class_names is not None:
        return _scan(data, split, names)
    scanned = _scan(data, split, None)
    names = infer_class_names(data) if names is None else names
    return scanned if tuple(names) == scanned[0].class_names else _scan(data, split, names)


def infer_class_names(data: DataConfig) -> list[str]:
    """The classes of all splits together: VOC's sorted by name, COCO's and Darknet's by id.

    Some may occur in one split only.
    """
    ids: dict[str, int] = {}  # COCO's; a name keeps the first
    learned: set[str] = set()
    for split in filter(lambda split: getattr(data, split), SPLITS):
        annotations, _ = _scan(data, split, None)
        ids = dict(zip(annotations.class_names, annotations.category_ids, strict=True)) | ids
        learned = learned or set(annotations.class_names)
    names = sorted(ids, key=(lambda name: ids[name]) if data.format in BY_ID else None)
    absent = [name for name in names if name not in learned]
    if absent:
        listed = "; ".join(f"{name}{did_you_mean(name, sorted(learned), quoted=True)}" for name in absent)
        logger.warning("classes that data.train does not have, so that they cannot be learned: %s", listed)
    return names


def refuse_empty_classes(data: DataConfig, annotations: Annotations) -> None:
    """ValueError for a name of data.class_names without a box in the training split: most likely a mistake.

    With data.allow_empty_classes it is logged. annotations: of that split.
    """
    listed = data.class_names or []
    used = _classes_with_boxes(annotations)
    empty = [name for name in listed if name not in used]
    if not empty:
        return
    others = _classes_with_boxes(_scan(data, "train", None)[0]) - set(listed)
    hints = [f"{name!r}{did_you_mean(name, sorted(others), quoted=True, words=True)}" for name in empty]
    what = f"classes of data.class_names without a box in data.train={data.train}:"
    if data.allow_empty_classes:
        logger.warning("%s %s", what, ", ".join(map(repr, empty)))
        return
    fix = "correct or remove the names; data.allow_empty_classes=true trains although they cannot be learned"
    raise ValueError("\n  ".join([what, *hints]) + f"\n{fix}")


def _classes_with_boxes(annotations: Annotations) -> set[str]:
    return {annotations.class_names[label] for label in set(annotations.labels.tolist())}


def _scan(data: DataConfig, split: str, class_names: list[str] | None) -> Scanned:
    """Reads one split, through the cache. An error about a list or a folder also names the setting."""
    files = getattr(data, split)
    if not files:
        raise ValueError(f"data.{split} is empty: {data.name} has no such split; set data.{split}=[...]")
    try:
        return _as_the_task_wants(data, split, _scan_format(data, split, class_names))
    except FileNotFoundError as error:
        settings = f"data.{split}={files}"
        if data.format == "coco":
            settings += f", data.image_folders.{split}={getattr(data.image_folders, split)}"
        raise FileNotFoundError(f"{error} ({settings})") from error


def _as_the_task_wants(data: DataConfig, split: str, scanned: Scanned) -> Scanned:
    """For classification: boxes as images, or a share of the images as the val split."""
    annotations, problems = scanned
    if data.box_crops is not None:
        annotations = box_crops(annotations, data.box_crops, use_difficult=data.train_difficult)
    if data.val_share is not None and split in ("train", "val"):
        annotations = shared_out(annotations, data.val_share, data.split_seed, val=split == "val")
    return annotations, problems


def _scan_format(data: DataConfig, split: str, class_names: list[str] | None) -> Scanned:
    """Reads one split in its format."""
    if data.format == "coco":
        return _scan_coco(data, split, class_names)
    if data.format == "darknet":
        return cached(
            scan_darknet,
            darknet_sources,
            folder=data.cache,
            class_names=class_names,
            root=Path(data.root),
            file=None if data.file is None else Path(data.file),
            image_sets=list(getattr(data, split)),
        )
    root = Path(data.root)
    if data.format in ARRAY_FORMATS:
        return read_arrays(data.format, data.root, _one_name(data, split), class_names), []
    if data.format == "imagefolder":
        return cached(
            scan_image_folder,
            image_folder_sources,
            folder=data.cache,
            class_names=class_names,
            root=root,
            image_sets=list(getattr(data, split)),
        )
    if data.format == "shapes":
        shapes = data.shapes
        root = write_shapes(
            folder=root, seed=shapes.seed, train=shapes.train, val=shapes.val, size=shapes.size
        )
    return cached(
        scan_voc,
        voc_sources,
        folder=data.cache,
        class_names=class_names,
        root=root,
        image_sets=list(getattr(data, split)),
    )


def _one_name(data: DataConfig, split: str) -> str:
    names = getattr(data, split)
    if len(names) != 1:
        raise ValueError(f"data.{split}={names}: name one, train or test")
    return names[0]


def _scan_coco(data: DataConfig, split: str, class_names: list[str] | None) -> Scanned:
    root = Path(data.root)
    files = getattr(data, split)
    folder = getattr(data.image_folders, split)
    if len(files) != 1:
        raise ValueError(f"data.{split}={files}: COCO's format takes one annotation file for each split")
    if folder is None:
        raise ValueError(
            f"data.image_folders.{split} is missing: "
            f"name the folder of the images of {files[0]}, relative to {root}"
        )
    return cached(
        scan_coco,
        coco_sources,
        folder=data.cache,
        class_names=class_names,
        annotation_file=root / files[0],
        image_folder=root / folder,
    )


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
    )


def image_reader(config: Config, annotations: Annotations, kind: str) -> ImageReader | ArrayReader:
    """Decodes images, and keeps them as `kind` says: none, ram or disk. Arrays are in memory anyway."""
    if config.data.format in ARRAY_FORMATS:
        return ArrayReader(annotations, config.data.format, config.data.root)
    cache = open_cache(kind, annotations, Path(config.paths.cache) / "images")
    data = config.data
    return ImageReader(annotations, cache=cache, reduced=data.reduced_decode, max_pixels=data.max_pixels)


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
        return _new_detector(config, num_classes, from_checkpoint=True)


def seeded_detector(config: Config, num_classes: int, *, from_checkpoint: bool = False) -> Detector:
    """build_detector's for a program that trains: all of PyTorch's generators go on from config.seed.

    from_checkpoint: its weights will be replaced, so that the file of model.backbone_weights is not read.
    """
    torch.manual_seed(config.seed)
    return _new_detector(config, num_classes, from_checkpoint)


def _new_detector(config: Config, num_classes: int, from_checkpoint: bool) -> Detector:
    unread = {"backbone_weights": None} if from_checkpoint and config.model.get("backbone_weights") else {}
    detector = build({**config.model, **unread}, num_classes=num_classes, loss=build(config.loss))
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
