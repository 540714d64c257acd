"""Whether an exported file computes what its network computes: the same images through both."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.commands.export.traced_modules import traced_module
from detectors.models.classifier import Classifier
from detectors.models.detector import Detector
from detectors.models.exported import ExportedClassifier, ExportedDetector, ExportedNetwork, open_exported
from detectors.structures import Detections

TOLERANCE = 1e-4
BATCHES = (1, 3)  # images
# Detections without a counterpart, of all: two boxes at the IoU, a score at the threshold or a limit.
BORDERLINE = 0.01


class OutputDifference(NamedTuple):
    """How far a file's output is from the network's."""

    batch: int  # images
    output: str
    largest: float  # max |file - network|
    numbers: float  # the largest |number| of the output

    @property
    def scale(self) -> float:
        """What 1e-4 is relative to."""
        return max(1.0, self.numbers)


class FileComparison(NamedTuple):
    differences: list[OutputDifference]
    detections: int | None  # of the network; None without boxes
    unmatched: int  # detections of either side without one of the same class and place on the other

    def lines(self) -> list[str]:
        """For the user."""
        lines = [
            f"batch {d.batch}: {d.output:12} max |file - eager| {d.largest:.1e} "
            f"(numbers up to {d.numbers:.3g})"
            for d in self.differences
        ]
        if faint := sorted({d.output for d in self.differences if d.numbers < TOLERANCE}):
            lines.append(
                f"{', '.join(faint)}: all numbers are below {TOLERANCE:g}, so the comparison cannot tell "
                "them from 0; a trained network's it can"
            )
        if self.detections == 0:
            lines.append(
                "detections: none on the made-up images, so boxes and scores could not be compared; "
                "without --with-boxes, or with a lower --score-threshold, they are"
            )
        elif self.detections is not None:
            lines.append(f"detections: {self.detections}, without a counterpart: {self.unmatched}")
        return lines

    def problem(self) -> str | None:
        """What is wrong with the file; None if nothing is."""
        for d in self.differences:
            if not d.largest <= TOLERANCE * d.scale:
                return (
                    f"output {d.output} differs by {d.largest:.3g} from the network's, at most "
                    f"{TOLERANCE * d.scale:.3g} is allowed ({TOLERANCE:g} of its largest number)"
                )
        if self.unmatched > max(1, BORDERLINE * (self.detections or 0)):
            return f"{self.unmatched} of {self.detections} detections have no counterpart"
        return None


def verified(network: Detector | Classifier, path: Path) -> ExportedDetector | ExportedClassifier:
    """The file, opened; prints its differences from the network. ValueError if they are too large."""
    exported = open_exported(path)
    comparison = compare_file(network, exported)
    print(*comparison.lines(), sep="\n")
    if problem := comparison.problem():
        raise ValueError(f"not written, because the file does not compute what the network does: {problem}")
    return exported


@torch.no_grad()
def compare_file(network: Detector | Classifier, exported: ExportedNetwork) -> FileComparison:
    """The network, in evaluation mode on the CPU, and its file on made-up images, in batches of BATCHES."""
    size = exported.size
    with_boxes = exported.metadata.get("with_boxes", False)
    differences: list[OutputDifference] = []
    detections = unmatched = 0
    eager = None if with_boxes else traced_module(network, size, with_boxes=False)
    for batch in BATCHES:
        images = blob_images(size, batch)
        outputs = exported.outputs(images)
        if with_boxes:
            expected = network.postprocess(network(images), network.grid(size))
            found, alone = detection_differences(expected, Detections(**outputs), batch, max(size))
            differences += found
            detections += len(expected.scores)
            unmatched += alone
            continue
        differences += [
            output_difference(batch, name, value, outputs[name])
            for name, value in zip(eager.outputs, eager(images), strict=True)
        ]
    return FileComparison(differences, detections if with_boxes else None, unmatched)


def output_difference(batch: int, name: str, expected: Tensor, found: Tensor) -> OutputDifference:
    alike = expected.shape == found.shape
    largest = float((expected - found).abs().max()) if alike else torch.inf
    return OutputDifference(batch, name, largest, float(expected.abs().max()))


def blob_images(size: tuple[int, int], count: int) -> Tensor:
    """(count, 3, H, W) uint8: coloured blobs with noise over them, always the same."""
    generator = torch.Generator().manual_seed(count)
    blobs = torch.rand(count, 3, 6, 6, generator=generator)
    blobs = F.interpolate(blobs, size, mode="bilinear", align_corners=False)
    noise = torch.rand(count, 3, *size, generator=generator)
    return (255 * (0.8 * blobs + 0.2 * noise)).to(torch.uint8)


def detection_differences(
    expected: Detections, found: Detections, batch: int, side: int
) -> tuple[list[OutputDifference], int]:
    """The differences of detections that both sides have, and how many one side has alone.

    A detection's counterpart is the nearest of its image and class. Boxes are compared in pixels, relative to
    the input's side, or to their own corners where these lie further out. Order is not compared.
    """
    there = _nearest(expected, found, side)
    back = _nearest(found, expected, side)
    matched = there[:, 0] <= TOLERANCE
    unmatched = int((~matched).sum() + (back[:, 0] > TOLERANCE).sum())
    largest = there[matched].amax(0).tolist() if matched.any() else [0.0] * 3
    differences = [
        OutputDifference(batch, "boxes", largest[1] * side, float(side)),
        OutputDifference(batch, "scores", largest[2], 1.0),
    ]
    return differences, unmatched


def _nearest(of: Detections, among: Detections, side: int) -> Tensor:
    """(T, 3): for each detection the distance to its counterpart, that of the boxes and that of the scores.

    Infinity where the other side has none of its image and class.
    """
    result = torch.full((len(of.scores), 3), torch.inf)
    key = of.image * 2**32 + of.labels
    other_key = among.image * 2**32 + among.labels
    for value in key.unique():
        rows = (key == value).nonzero()[:, 0]
        others = (other_key == value).nonzero()[:, 0]
        if not len(others):
            continue
        scale = of.boxes[rows].abs().amax(1).clamp(min=side)[:, None]
        boxes = (of.boxes[rows, None] - among.boxes[None, others]).abs().amax(2) / scale
        scores = (of.scores[rows, None] - among.scores[None, others]).abs()
        distance, nearest = torch.maximum(boxes, scores).min(1)
        place = nearest[:, None]
        result[rows] = torch.cat([distance[:, None], boxes.gather(1, place), scores.gather(1, place)], 1)
    return result
