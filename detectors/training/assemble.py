"""From a checked configuration to the parts of a run: data, detector, optimiser; and back from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from detectors.annotations import Annotations
from detectors.config.build import build
from detectors.config.check import check
from detectors.config.schema import Config, DataConfig
from detectors.data.annotation_cache import Scanned, cached
from detectors.data.augment.mixing import Mixing
from detectors.data.augment.transforms import build_transform, no_augmentation
from detectors.data.checks import did_you_mean, settled
from detectors.data.coco import coco_sources, scan_coco
from detectors.data.image_cache import open_cache
from detectors.data.images import ImageReader
from detectors.data.loading import BatchLoader, DetectionDataset, build_eval_loader, build_train_loader
from detectors.data.sampling import MultiScale
from detectors.data.shapes import write_shapes
from detectors.data.voc import scan_voc, voc_sources
from detectors.models.detector import Detector
from detectors.training.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from detectors.training.transfer import Transfer, fit_tensors

PIXEL_SETTINGS = (
    "pixel_mean",
    "pixel_std",
    "channel_order",
)  # what a network's first layer was trained with, as far as its builder has a choice
SPLITS = ("train", "val", "test")

logger = logging.getLogger(__name__)


def read_annotations(data: DataConfig, split: str, class_names: Sequence[str] | None = None) -> Annotations:
    """What scan_annotations finds; data.on_error says whether a fault in the files stops here or is told and left out."""
    return settled(scan_annotations(data, split, class_names), data.on_error)


def scan_annotations(data: DataConfig, split: str, class_names: Sequence[str] | None = None) -> Scanned:
    """A split's truths, and everything faulty that is not among them. Through the cache in data.cache.

    split: train, val or test. class_names: of a trained detector, in place of data.class_names. Without either, the classes are all those
    that the annotations of any split name. FileNotFoundError or ValueError where a folder, a split list or a file as a whole is wrong.
    """
    names = data.class_names if class_names is None else list(class_names)
    if data.class_names is not None:
        return _scan(data, split, names)
    found = _scan(data, split, None)
    names = infer_class_names(data) if names is None else names
    return found if tuple(names) == found[0].class_names else _scan(data, split, names)


def infer_class_names(data: DataConfig) -> list[str]:
    """The classes of all splits together, since some may occur in one of them only: VOC's sorted, COCO's by their categories' ids."""
    ids: dict[str, int] = {}  # COCO's; a name keeps the first
    learned: set[str] = set()
    for split in filter(lambda split: getattr(data, split), SPLITS):
        truths, _ = _scan(data, split, None)
        ids = dict(zip(truths.class_names, truths.category_ids, strict=True)) | ids
        learned = learned or set(truths.class_names)
    names = sorted(ids, key=(lambda name: ids[name]) if data.format == "coco" else None)
    strange = [f"{name}{did_you_mean(name, sorted(learned))}" for name in names if name not in learned]
    if strange:
        logger.warning(
            "classes that data.train does not have, so that they cannot be learned: %s", "; ".join(strange)
        )
    return names


def _scan(data: DataConfig, split: str, class_names: list[str] | None) -> Scanned:
    image_sets, common = getattr(data, split), {"folder": data.cache, "class_names": class_names}
    if not image_sets:
        raise ValueError(f"data.{split} is empty: {data.name} has no such split; set data.{split}=[...]")
    if data.format == "coco":
        if len(image_sets) != 1:
            raise ValueError(
                f"data.{split}={image_sets}: COCO's format takes one annotation file for each split"
            )
        root, folder = Path(data.root), getattr(data.image_folders, split)
        if folder is None:
            raise ValueError(
                f"data.image_folders.{split} is missing: name the folder of the images of {image_sets[0]}, relative to {root}"
            )
        return cached(
            scan_coco,
            coco_sources,
            **common,
            annotation_file=root / image_sets[0],
            image_folder=root / folder,
        )
    root = Path(data.root)
    if data.format == "shapes":
        root = write_shapes(
            folder=root,
            seed=data.shapes.seed,
            train=data.shapes.train,
            val=data.shapes.val,
            size=data.shapes.size,
        )
    return cached(scan_voc, voc_sources, **common, root=root, image_sets=list(image_sets))


def build_detector(config: Config, num_classes: int) -> Detector:
    """Weights are drawn from config.seed."""
    torch.manual_seed(config.seed)
    return build(config.model, num_classes=num_classes, loss=build(config.loss))


def train_dataset(config: Config, annotations: Annotations) -> DetectionDataset:
    """What training sees: dataset[Key(epoch, index, size)] is one augmented Sample."""
    mixing = Mixing(config.mixing.mosaic, config.mixing.mixup)
    on_error = {"stop": "stop", "skip": "replace"}[config.data.on_error]
    size = tuple(config.input.size)
    transform = build_transform(
        augment=build(config.augment), size=size, resize=config.input.resize, train=True
    )
    return DetectionDataset(
        annotations,
        transform,
        seed=config.seed,
        use_difficult=config.data.train_difficult,
        on_error=on_error,
        mixing=mixing,
        reader=image_reader(config, annotations),
    )


def image_reader(config: Config, annotations: Annotations) -> ImageReader:
    cache = open_cache(config.data.image_cache, annotations, Path(config.paths.cache) / "images")
    return ImageReader(annotations, cache=cache, reduced=config.data.reduced_decode)


def train_loader(config: Config, annotations: Annotations, *, start_step: int) -> BatchLoader:
    """Batches from optimiser step `start_step` to the end; each step takes `accumulate` of them."""
    trainer, parts, scales = config.trainer, config.trainer.accumulate, multi_scale(config)
    return build_train_loader(
        train_dataset(config, annotations),
        batch_size=trainer.batch_size,
        workers=config.data.workers,
        prefetch=config.data.prefetch,
        start_step=start_step * parts,
        steps=trainer.steps * parts,
        size_of=scales and (lambda batch: scales(batch // parts)),
    )


def multi_scale(config: Config) -> MultiScale | None:
    """Optimiser step -> input size; None where all steps have input.size."""
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
    config: Config, annotations: Annotations, *, batch_size: int, repeated: bool = False
) -> BatchLoader:
    """Every image once, in order. repeated: it will be gone through more than once, so that keeping images in memory pays."""
    transform = build_transform(
        augment=no_augmentation(), size=tuple(config.input.size), resize=config.input.resize, train=False
    )
    data = (
        config.data
        if repeated or config.data.image_cache != "ram"
        else replace(config.data, image_cache="none")
    )
    reader = image_reader(replace(config, data=data), annotations)
    on_error = {"stop": "stop", "skip": "leave_out"}[data.on_error]
    dataset = DetectionDataset(annotations, transform, seed=config.seed, on_error=on_error, reader=reader)
    return build_eval_loader(dataset, batch_size=batch_size, workers=data.workers, prefetch=data.prefetch)


def choose_device(name: str) -> torch.device:
    """'auto' takes a GPU if there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: PyTorch sees no GPU here; set device=cpu or device=auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def load_detector(checkpoint: Checkpoint, device: torch.device) -> tuple[Detector, Config]:
    """The detector of a checkpoint in evaluation mode, and its configuration. ValueError if the weights do not fit it."""
    config = check(checkpoint.config)
    detector = build_detector(config, len(checkpoint.class_names))
    load_state(detector, checkpoint)
    return detector.to(device).eval(), config


def initial_weights(place: str) -> Checkpoint:
    """The checkpoint that trainer.init_from names. FileNotFoundError or ValueError that says how to come by one."""
    try:
        return load_checkpoint(find_checkpoint(place))
    except (FileNotFoundError, ValueError) as error:
        fix = "detectors convert makes checkpoints of other programs' weights; trainer.init_from=null starts from random ones"
        raise type(error)(f"trainer.init_from: {error}; {fix}") from error


def start_from(
    detector: Detector, checkpoint: Checkpoint, config: Config, class_names: Sequence[str]
) -> list[str]:
    """Weights of a checkpoint into a new detector, as far as names and shapes agree; the lines that say what was loaded and what was not.

    What the loss counts (images_seen) starts anew, as with Darknet's `partial` and -clear. ValueError if nothing fits.
    """
    ours = {name: tensor for name, tensor in detector.state_dict().items() if not name.startswith("loss.")}
    held = [name for name in ours if name.startswith(tuple(config.trainer.init_without))]
    found = {
        name: tensor
        for name, tensor in checkpoint.model.items()
        if not name.startswith("loss.") and name not in held
    }
    with torch.device("meta"):
        twin = build(
            config.model, num_classes=len(checkpoint.class_names), loss=build(config.loss)
        ).state_dict()
    transfer = fit_tensors(ours, found, where=str(checkpoint.path), twin=twin, partial=True)
    transfer.left |= dict.fromkeys(held, "trainer.init_without")
    transfer.unused = dict.fromkeys(
        (name for name in found if name not in ours), "nothing here has this name"
    )
    if not transfer.loaded:
        what = f"none of its {len(checkpoint.model)} tensors fits {config.name}"
        raise ValueError(
            f"{checkpoint.path}: {what}; set trainer.init_from to weights of this network, or fewer trainer.init_without"
        )
    detector.load_state_dict(transfer.state, strict=False)
    first, *rest = transfer.summary()
    return [
        f"weights of {checkpoint.path}: {first}",
        *rest,
        *_other_meaning(transfer, checkpoint, config, class_names),
    ]


def _other_meaning(
    transfer: Transfer, checkpoint: Checkpoint, config: Config, class_names: Sequence[str]
) -> Iterator[str]:
    """What fits by size and yet was trained for something else: pixels of another scale, classes of other names."""
    before = checkpoint.config["model"]
    for name in PIXEL_SETTINGS:
        if name in before and name in config.model and list(before[name]) != list(config.model[name]):
            yield f"trained with {name}={before[name]}, but model.{name}={config.model[name]} here; make them equal"
    same_size = len(class_names) == len(checkpoint.class_names) and any(
        name.startswith("head.") for name in transfer.loaded
    )
    if same_size and tuple(class_names) != checkpoint.class_names:
        yield "its classes have other names or another order, and its head fits by size alone; trainer.init_without=[head] starts it anew"


def load_state(detector: Detector, checkpoint: Checkpoint) -> None:
    try:
        detector.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        raise ValueError(
            f"{checkpoint.path}: its weights do not fit the configuration that it names ({str(error).splitlines()[-1].strip()})"
        ) from error
