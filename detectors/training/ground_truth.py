"""From checked settings of the data to the ground truth of a split, in whatever format its files are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from detectors.annotations import Annotations
from detectors.config.schema import ARRAY_FORMATS, SPLITS, DataConfig
from detectors.data.annotation_cache import Scanned, cached
from detectors.data.checks import settled
from detectors.data.coco import coco_sources, scan_coco
from detectors.data.darknet_labels import darknet_sources, scan_darknet
from detectors.data.image_folder import image_folder_sources, scan_image_folder
from detectors.data.image_subsets import shared_out
from detectors.data.label_lists import label_list_sources, scan_label_list
from detectors.data.labelled_sets import box_crops
from detectors.data.shapes import write_shapes
from detectors.data.suggestions import did_you_mean
from detectors.data.torchvision_sets import read_arrays
from detectors.data.voc import scan_voc, voc_sources
from detectors.metrics.tree_report import TaughtNodes
from detectors.training.joint_truth import scan_nodes, taught_nodes
from detectors.wordtree.tree_sources import load_tree

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
    if data.tree is not None:
        return _of_the_same_tree(scan_nodes(data, split, _scan_set), class_names)
    if data.class_names is not None:
        return _scan(data, split, names)
    scanned = _scan(data, split, None)
    names = infer_class_names(data) if names is None else names
    return scanned if tuple(names) == scanned[0].class_names else _scan(data, split, names)


def _of_the_same_tree(scanned: Scanned, class_names: Sequence[str] | None) -> Scanned:
    """ValueError if the nodes are not those of a trained network."""
    names = scanned[0].class_names
    if class_names is not None and tuple(class_names) != names:
        what = f"data.tree has the {len(names)} nodes {', '.join(names[:3])}, ..."
        others = f"the network knows {len(class_names)} classes, {', '.join(class_names[:3])}, ..."
        raise ValueError(f"{what}; {others}; set data.tree to the tree that it was trained with")
    return scanned


def trained_tree(data: DataConfig) -> TaughtNodes | None:
    """The tree of a trained run, with what its training split says of the nodes if its files are there."""
    if data.tree is None:
        return None
    try:
        return taught_nodes(data, scan_annotations(data, "train")[0])
    except (FileNotFoundError, ValueError) as error:
        logger.warning("classes with and without boxes in training are not told apart: %s", error)
        return taught_nodes(data, None)


def _scan_set(data: DataConfig, split: str) -> Scanned:
    """A set with its own classes, those of all its splits or those of data.class_names."""
    if data.class_names is None and sum(map(bool, (data.train, data.val, data.test))) > 1:
        return _scan(data, split, infer_class_names(data))
    return _scan(data, split, data.class_names)


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
        hint = (
            "; data.val=[] trains without an evaluation"
            if split == "val" and Path(data.root).is_dir()
            else ""
        )
        raise FileNotFoundError(f"{error} ({settings}){hint}") from error


def _as_the_task_wants(data: DataConfig, split: str, scanned: Scanned) -> Scanned:
    """Boxes as images, for classification; a share of the images as the val split."""
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
            **({} if data.tree is None else {"nodes": len(load_tree(data.tree))}),
        )
    root = Path(data.root)
    if data.format in ARRAY_FORMATS:
        return read_arrays(data.format, data.root, _one_name(data, split), class_names), []
    if data.format in ("imagefolder", "imagelist"):
        lists = data.format == "imagelist"
        return cached(
            scan_label_list if lists else scan_image_folder,
            label_list_sources if lists else image_folder_sources,
            folder=data.cache,
            class_names=class_names,
            root=root,
            image_sets=list(getattr(data, split)),
        )
    if data.format == "shapes":
        shapes = data.shapes
        root = write_shapes(folder=root, **vars(shapes))
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
