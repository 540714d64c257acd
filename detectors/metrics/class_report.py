"""How often a classifier is right, by class, and which class it takes for which."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from detectors.annotations import Annotations
from detectors.metrics.report import truths_hash
from detectors.metrics.tree_report import TaughtNodes
from detectors.tables import cell, text_table

BEST_CLASSES = 5  # classes of an image that are kept
PAIRS_LISTED = 5  # confusions that the table names
MOST_WRITTEN = 2000  # classes of a confusion matrix that evaluation.json holds


class Guesses(NamedTuple):
    """A classifier's best classes of images; an image that could not be read has none."""

    rows: np.ndarray  # (n,) int64, rows of the Annotations
    labels: np.ndarray  # (n, k) int64, the best class first
    probabilities: np.ndarray  # (n, k) float32

    def by_row(self) -> Guesses:
        order = np.argsort(self.rows, kind="stable")
        return Guesses(self.rows[order], self.labels[order], self.probabilities[order])


@dataclass(frozen=True)
class ClassReport:
    """Shares from 0 to 1. None: no image (of that class), or too few classes for the number to say anything.

    An image that could not be read counts as wrong.
    """

    # accuracy; accuracy_top5, with more than five classes; accuracy_mean, the mean over the classes;
    # hits_level1, ... with a tree, see class_report
    scalars: dict[str, float | None]
    per_class: dict[str, dict[str, float | int | None]]  # class name -> accuracy, images
    confusion: np.ndarray  # (C, C) int64: rows are the true classes, columns the best ones
    images: int
    truths_hash: str  # see report.truths_hash

    def as_dict(self) -> dict:
        return {
            **self.scalars,
            "images": self.images,
            "truths_hash": self.truths_hash,
            "per_class": self.per_class,
            **({"confusion": self.confusion.tolist()} if len(self.confusion) <= MOST_WRITTEN else {}),
        }

    def table(self) -> str:
        """The numbers as text, one class a line, and the pairs that are confused most."""
        rows = [(name[:30], row["images"], _share(row["accuracy"])) for name, row in self.per_class.items()]
        rows.append(("all", self.images, _share(self.scalars["accuracy"])))
        lines = text_table(("class", "images", "accuracy"), rows)
        others = [f"{key} {_share(value)}" for key, value in self.scalars.items() if key != "accuracy"]
        return "\n".join([*lines, ", ".join(others), *self._confused()])

    def _confused(self) -> list[str]:
        """'most confused: four for nine 7, ...'"""
        names = list(self.per_class)
        wrong = self.confusion * ~np.eye(len(names), dtype=bool)
        order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS_LISTED]
        pairs = [divmod(int(place), len(names)) for place in order]
        texts = [f"{names[a]} taken for {names[b]} {wrong[a, b]}" for a, b in pairs if wrong[a, b]]
        return [f"most confused: {', '.join(texts)}"] if texts else []


def class_report(annotations: Annotations, guesses: Guesses, tree: TaughtNodes | None = None) -> ClassReport:
    """annotations: one box for each image, see labelled_sets.

    tree: of classes that are its nodes. Then a guess is right if it is the true class or lies below it, and
    the scalars have hits_level1, ...: of the images whose class lies on a level or deeper, the share whose
    best guess has the same ancestor there.
    """
    names = annotations.class_names
    count = len(names)
    truth = annotations.labels
    right = np.zeros((len(truth), BEST_CLASSES), bool)  # by place of the guess
    guessed = guesses.labels == truth[guesses.rows, None]
    if tree is not None:
        level = tree.depth[truth[guesses.rows]] - 1
        guessed = tree.ancestors[guesses.labels, level[:, None]] == truth[guesses.rows, None]
    right[guesses.rows, : guessed.shape[1]] = guessed
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (truth[guesses.rows], guesses.labels[:, 0]), 1)
    images = np.bincount(truth, minlength=count)
    hits = np.bincount(truth[right[:, 0]], minlength=count)
    per_class = {
        name: {"accuracy": float(hits[label] / images[label]) if images[label] else None}
        | {"images": int(images[label])}
        for label, name in enumerate(names)
    }
    known = [row["accuracy"] for row in per_class.values() if row["accuracy"] is not None]
    scalars = {
        "accuracy": float(right[:, 0].mean()) if len(truth) else None,
        "accuracy_top5": float(right.any(1).mean()) if len(truth) and count > BEST_CLASSES else None,
        "accuracy_mean": float(np.mean(known)) if known else None,
    }
    if tree is not None:
        scalars |= _hits(truth, guesses, tree)
    return ClassReport(scalars, per_class, confusion, len(annotations), truths_hash(annotations))


def _hits(truth: np.ndarray, guesses: Guesses, tree: TaughtNodes) -> dict[str, float]:
    best = np.full(len(truth), -1, np.int64)
    best[guesses.rows] = guesses.labels[:, 0]
    depth = tree.depth[truth]
    shares = {}
    for level in range(int(depth.max(initial=0))):
        asked = depth > level
        same = tree.ancestors[best, level] == tree.ancestors[truth, level]
        shares[f"hits_level{level + 1}"] = float((same & (best >= 0))[asked].mean())
    return shares


def predictions_csv(annotations: Annotations, guesses: Guesses) -> str:
    """A line for each image: its id, its class, the best class and its probability."""
    names = annotations.class_names
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("image", "class", "best", "probability"))
    best = zip(guesses.labels[:, 0].tolist(), guesses.probabilities[:, 0].tolist(), strict=True)
    for row, (label, probability) in zip(guesses.rows.tolist(), best, strict=True):
        truth = names[annotations.labels[row]]
        lines.writerow((annotations.image_ids[row], truth, names[label], f"{probability:.6f}"))
    return text.getvalue()


def _share(value: float | None) -> str:
    return cell(value, ".4f")
