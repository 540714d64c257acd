"""Every definition of average precision side by side, for one set of detections."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.metrics.coco import CocoResult, evaluate_coco
from detectors.metrics.pr_curves import PrCurve, pr_curves
from detectors.metrics.tree_report import TaughtNodes, tree_scalars
from detectors.metrics.voc import evaluate_voc
from detectors.structures import Detections
from detectors.tables import cell, text_table


@dataclass(frozen=True)
class Report:
    """AP by every definition, from 0 to 1. None: no ground truth (of that class or size)."""

    # COCO's twelve numbers (AP, AP50, AP75, AP_small ..., AR1 ...), AP50_voc07 (11-point), AP50_voc10 (area);
    # with a tree those of tree_scalars
    scalars: dict[str, float | None]
    # class name -> AP, AP50, AP50_voc07, AP50_voc10, truths (the number of boxes); with a tree taught_by, see
    # TaughtNodes
    per_class: dict[str, dict[str, float | str | None]]
    images: int
    detections: int
    truths_hash: str  # see truths_hash()
    pr_curves: dict[str, PrCurve]  # by class name, at VOC's IoU > .5; not in as_dict

    def as_dict(self) -> dict:
        return {
            **self.scalars,
            "images": self.images,
            "detections": self.detections,
            "truths_hash": self.truths_hash,
            "per_class": self.per_class,
        }

    def table(self) -> str:
        """The numbers as text, one class a line."""
        keys = ("AP", "AP50", "AP50_voc07", "AP50_voc10")
        taught = any("taught_by" in row for row in self.per_class.values())
        rows = [
            (name[:20], row["truths"], *[_number(row[key]) for key in keys], row.get("taught_by", ""))
            for name, row in self.per_class.items()
        ]
        total = sum(int(row["truths"] or 0) for row in self.per_class.values())
        rows.append(("mean", total, *[_number(self.scalars[key]) for key in keys], ""))
        heads = ["class", "boxes", "AP", "AP50", "voc07", "voc10"]
        widths = [20, 7, 7, 7, 7, 7]
        if taught:
            heads.append("taught by")
            widths.append(9)
        lines = text_table(heads, [row[: len(heads)] for row in rows], widths=widths, gap=1)
        others = [f"{key} {_number(value)}" for key, value in self.scalars.items() if key not in keys]
        return "\n".join([*lines, ", ".join(others)])


def report(
    annotations: Annotations,
    detections: Detections,
    coco_evaluator: Callable[[Annotations, Detections], CocoResult] = evaluate_coco,
    tree: TaughtNodes | None = None,
) -> Report:
    """AP by every definition. detections: original frame; `image` is the row of `annotations`.

    tree: of classes that are its nodes. Then `per_class` has those with ground truth alone, and what the
    training had of each.

    The VOC numbers match at IoU > .5, as voc_eval.py does.
    """
    detections = on_images_with_boxes(annotations, detections)
    voc = evaluate_voc(annotations, detections)
    coco = coco_evaluator(annotations, detections)
    scalars = {name: _defined(value) for name, value in coco.stats.items()}
    scalars |= {"AP50_voc07": _defined(voc.map07), "AP50_voc10": _defined(voc.map10)}
    columns = {"AP": coco.ap, "AP50": coco.ap50, "AP50_voc07": voc.ap07, "AP50_voc10": voc.ap10}
    per_class: dict[str, dict[str, float | str | None]] = {
        name: {**{key: _defined(column[k]) for key, column in columns.items()}, "truths": int(voc.npos[k])}
        for k, name in enumerate(annotations.class_names)
        if tree is None or voc.npos[k] or coco.ap[k] >= 0
    }
    if tree is not None:
        scalars |= tree_scalars(annotations, detections, {"AP": coco.ap, "AP50": coco.ap50}, tree)
        for k, name in enumerate(annotations.class_names) if tree.boxed is not None else ():
            if name in per_class:
                per_class[name]["taught_by"] = tree.taught_by(k)
    return Report(
        scalars,
        per_class,
        images=len(annotations),
        detections=len(detections.scores),
        truths_hash=truths_hash(annotations),
        pr_curves=pr_curves(voc),
    )


def on_images_with_boxes(annotations: Annotations, detections: Detections) -> Detections:
    """Without those on images of which only the label is known: nobody knows whether they are right."""
    labels = annotations.image_labels
    if labels is None or (labels < 0).all():
        return detections
    keep = torch.from_numpy(labels < 0).to(detections.image.device)[detections.image]
    return Detections(
        detections.image[keep], detections.boxes[keep], detections.scores[keep], detections.labels[keep]
    )


def truths_hash(annotations: Annotations) -> str:
    """16 hexadecimal digits that say what was measured on: numbers with different ones are not comparable.

    Taken over image ids, image sizes, class names and every box with its class, flags and area. The folders
    of the files, and the order of images, boxes and classes, do not matter.
    """
    classes = np.argsort(np.argsort(annotations.class_names))  # label -> place in the sorted names
    ids = [str(image_id) for image_id in annotations.image_ids]
    images = np.argsort(np.argsort(ids))  # row -> place in the sorted ids
    rows = (
        np.column_stack(
            [
                images[annotations.image],
                classes[annotations.labels],
                annotations.boxes_original,
                annotations.areas,
                annotations.difficult,
                annotations.crowd,
            ]
        ).astype("<f8")
        + 0.0
    )  # -0.0 becomes 0.0
    digest = hashlib.sha256(
        repr((sorted(annotations.class_names), sorted(ids))).encode("utf-8", "surrogatepass")
    )
    digest.update(annotations.sizes[np.argsort(images)].astype("<i8").tobytes())
    digest.update(rows[np.lexsort(rows.T)].tobytes())
    return digest.hexdigest()[:16]


def _defined(value: float) -> float | None:
    """None for pycocotools' -1 and VOC's NaN, which both mean that there is no ground truth."""
    return float(value) if isfinite(value) and value >= 0 else None


def _number(value: float | str | None) -> str:
    return cell(value, ".4f")
