"""Detections on their way to the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detectors.models.yolov2 import yolov2_tiny
from detectors.structures import Detections, ImageInfo
from detectors.training import detection_fetcher
from detectors.training.detection_fetcher import DetectionFetcher

SIZE = (64, 96)


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return yolov2_tiny(num_classes=3, width=0.125).eval()


def batches(detector, numbers=(2, 1, 3)) -> list[tuple]:
    """Outputs, infos and size of batches; images have rows 100, 99, ... in Annotations."""
    generator = torch.Generator().manual_seed(1)
    result = []
    row = 100
    for count in numbers:
        images = torch.randint(0, 256, (count, 3, *SIZE), generator=generator, dtype=torch.uint8)
        infos = [ImageInfo(row - i, "", "", SIZE, (0.5, 0.5), (3.0, 0.0)) for i in range(count)]
        row -= count
        with torch.no_grad():
            result.append((detector(images), infos, SIZE))
    return result


def assert_same(ours: Detections, theirs: Detections) -> None:
    for name, value in vars(theirs).items():
        assert torch.equal(getattr(ours, name), value) and getattr(ours, name).dtype == value.dtype


def expected(detector, parts: list[tuple]) -> Detections:
    """One batch after the other."""
    of_batches = []
    for outputs, infos, size in parts:
        one = detector.detections(outputs, infos, size)
        rows = torch.tensor([infos[i].index for i in one.image.tolist()], dtype=torch.int64)
        of_batches.append(Detections(rows, one.boxes, one.scores, one.labels))
    return Detections.concatenate(of_batches)


def test_all_detections_in_the_order_of_batches(detector):
    parts = batches(detector)
    fetcher = DetectionFetcher(detector, torch.device("cpu"))
    for part in parts:
        fetcher.add(*part)
    theirs = expected(detector, parts)
    assert len(theirs.image) > 50
    assert_same(fetcher.finish(), theirs)


def test_no_batch_gives_no_detections(detector):
    assert len(DetectionFetcher(detector, torch.device("cpu")).finish().image) == 0


def test_a_batch_is_post_processed_beside_the_next_one(detector, monkeypatch):
    """What must happen, in order, by streams that only note it: no GPU is needed."""
    noted: list[Any] = []

    class Stream:
        def __init__(self, device):
            pass

        def __enter__(self):
            noted.append("side")

        def __exit__(self, *error):
            noted.append("end")

        def wait_event(self, event):
            noted.append(("wait", event))

        def record_event(self) -> int:
            noted.append(("computed", len(fetched)))
            return len(fetched)

    monkeypatch.setattr(torch, "Stream", Stream)
    computation = Stream(None)
    monkeypatch.setattr(detection_fetcher.torch.accelerator, "current_stream", lambda device: computation)
    parts = batches(detector)
    fetched: list[int] = []
    fetcher = DetectionFetcher(detector, torch.device("cuda", 1))
    for number, part in enumerate(parts):
        fetched.append(number)
        fetcher.add(*part)
    detections = fetcher.finish()
    turns = [("side", ("wait", n), "end") for n in (1, 2, 3)]
    assert noted == [
        ("computed", 1), ("computed", 2), *turns[0], ("computed", 3), *turns[1], *turns[2],
    ]  # fmt: skip
    assert_same(detections, expected(detector, parts))


@pytest.mark.gpu
def test_on_a_gpu_detections_are_those_of_one_batch_after_the_other(detector):
    parts = [(outputs.to("cuda"), *rest) for outputs, *rest in batches(detector, (2, 1, 3) * 20)]
    detector = detector.cuda()
    fetcher = DetectionFetcher(detector, torch.device("cuda"))
    for part in parts:
        fetcher.add(*part)
    assert_same(fetcher.finish(), expected(detector, parts).to("cpu"))
