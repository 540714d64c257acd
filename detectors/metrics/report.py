"""Every definition of average precision side by side, for one set of detections."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from detectors.annotations import Annotations
from detectors.metrics.coco import evaluate_coco
from detectors.metrics.voc import evaluate_voc
from detectors.structures import Detections


@dataclass(frozen=True)
class Report:
    """scalars: COCO's twelve numbers (AP, AP50, AP75, AP_small ..., AR1 ...), AP50_voc07 (11-point) and AP50_voc10 (area), all 0..1.

    None: undefined, for want of truths (of that class or size).
    """

    scalars: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]  # class name -> AP, AP50, AP50_voc07, AP50_voc10, truths
    images: int
    detections: int

    def as_dict(self) -> dict:
        return {
            **self.scalars,
            "images": self.images,
            "detections": self.detections,
            "per_class": self.per_class,
        }

    def table(self) -> str:
        """The numbers as text, one class a line."""
        head = f"{'class':20s} {'truths':>7s} {'AP':>7s} {'AP50':>7s} {'voc07':>7s} {'voc10':>7s}"
        keys = ("AP", "AP50", "AP50_voc07", "AP50_voc10")
        rows = [
            f"{name:20.20s} {row['truths']:7d} " + " ".join(_cell(row[key]) for key in keys)
            for name, row in self.per_class.items()
        ]
        mean = f"{'mean':20s} {sum(row['truths'] for row in self.per_class.values()):7d} " + " ".join(
            _cell(self.scalars[key]) for key in keys
        )
        rest = ", ".join(
            f"{key} {_cell(value).strip()}" for key, value in self.scalars.items() if key not in keys
        )
        return "\n".join([head, *rows, mean, rest])


def report(annotations: Annotations, detections: Detections) -> Report:
    """detections: original frame, `image` = row of `annotations`. IoU for the VOC numbers: above .5, as in voc_eval.py."""
    voc, coco = evaluate_voc(annotations, detections), evaluate_coco(annotations, detections)
    scalars = {name: _defined(value) for name, value in coco.stats.items()}
    scalars |= {"AP50_voc07": _defined(voc.map07), "AP50_voc10": _defined(voc.map10)}
    columns = {"AP": coco.ap, "AP50": coco.ap50, "AP50_voc07": voc.ap07, "AP50_voc10": voc.ap10}
    per_class = {
        name: {key: _defined(column[k]) for key, column in columns.items()} | {"truths": int(voc.npos[k])}
        for k, name in enumerate(annotations.class_names)
    }
    return Report(scalars, per_class, len(annotations), len(detections.scores))


def _defined(value: float) -> float | None:
    """pycocotools writes -1 and VOC's mean NaN where there is nothing to average."""
    return float(value) if isfinite(value) and value >= 0 else None


def _cell(value: float | None) -> str:
    return "      -" if value is None else f"{value:7.4f}"
