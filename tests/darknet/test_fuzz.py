"""Thousands of broken cfg and weights files: each is read, or refused with a ValueError, soon and within little memory."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch

from detectors.darknet.cfg import read_cfg
from detectors.darknet.network import read_network
from tests.darknet import cfgs, streams

CASES = 1000  # of each kind
LONGEST = 10.0  # seconds for one case, on a machine that others use too
MOST_MEMORY = 1 << 20  # KiB above what the process had
NUMBERS = [
    "0",
    "-1",
    "1",
    "2",
    "7",
    "1000",
    "99999",
    "2147483647",
    "-2147483648",
    "9" * 20,
    "1e30",
    "nan",
    "-inf",
    "",
    ",",
    "x",
    "1,2,3",
]
WORDS = [
    "[route]",
    "[yolo]",
    "[net]",
    "[region]",
    "[reorg]",
    "[maxpool]",
    "size=3",
    "stride=2",
    "layers=-1,-1",
    "groups=2",
    "=",
    "[",
    "]",
]


def small_network(folder: Path) -> tuple[str, bytes]:
    """cfg and weights of a narrow YOLOv2: every layer kind of a detector."""
    text = cfgs.yolov2(0.0625, 3)
    folder.mkdir(exist_ok=True)
    convs = [
        [layer.settings.filters, layer.input[0], layer.settings.size, int(layer.settings.batch_normalize)]
        for layer in read_cfg(cfgs.write(folder, text)).layers
        if layer.kind == "convolutional"
    ]
    return text, streams.write(folder / "net.weights", convs, 1).read_bytes()


def spoil_cfg(text: str, draw: Random) -> str:
    """One to three changes: a line lost, doubled, moved or cut, another number or word, or any character at all."""
    lines = text.split("\n")
    for _ in range(draw.randint(1, 3)):
        n = draw.randrange(len(lines))
        match draw.randrange(7):
            case 0:
                del lines[n : n + draw.choice((1, 2, 8, 1000))]
            case 1:
                lines[n:n] = lines[n : n + draw.randint(1, 8)] * draw.choice((1, 2, 200))
            case 2:
                lines.insert(draw.randrange(len(lines)), lines.pop(n))
            case 3 | 4:
                lines[n] = lines[n].partition("=")[0] + "=" + draw.choice(NUMBERS)
            case 5:
                lines.insert(n, draw.choice(WORDS))
            case 6:
                place = draw.randint(0, len(lines[n]))
                lines[n] = (
                    lines[n][:place] + chr(draw.randrange(0x250)) + lines[n][place + draw.randint(0, 2) :]
                )
        lines = lines or [""]
    return "\n".join(lines)


def spoil_weights(data: bytes, draw: Random) -> bytes:
    """Cut anywhere, made longer, the header or the body overwritten, or nothing but noise."""
    match draw.randrange(6):
        case 0:
            return data[: draw.randrange(len(data))]
        case 1:
            return data[: draw.randrange(64)]
        case 2:
            return data + draw.randbytes(draw.randint(1, 4096))
        case 3:
            return draw.randbytes(20) + data[20:]
        case 4:
            start = draw.randrange(len(data))
            return data[:start] + draw.randbytes(draw.randint(1, 4000)) + data[start:]
        case _:
            return draw.randbytes(draw.randint(0, len(data)))


def outcome(action: Callable[[], object]) -> str:
    """What happened; any other exception than ValueError goes on, and so does a case that takes too long."""
    started = time.monotonic()
    try:
        action()
        found = "read"
    except ValueError:
        found = "refused"
    assert time.monotonic() - started < LONGEST
    return found


def peak() -> int:
    """KiB"""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cfg", "weights", "both"])
@torch.no_grad()
def test_broken_files_are_read_or_refused(kind, tmp_path):
    text, data = small_network(tmp_path / "sound")
    cfg, weights, draw, before, found = (
        tmp_path / "x.cfg",
        tmp_path / "x.weights",
        Random(kind),
        peak(),
        Counter(),
    )

    def use() -> None:
        """As far as predict goes, on an input of the cfg's own size if that is not large."""
        network, _ = read_network(cfg, weights)
        net = network.config.net
        if network.config.region and net.width * net.height * net.channels < 1 << 18:
            network.detections(
                torch.zeros(1, net.channels, net.height, net.width), score_threshold=0.3, nms_iou=0.45
            )

    for _ in range(CASES):
        cfg.write_text(
            text if kind == "weights" else spoil_cfg(text, draw), encoding="utf-8", errors="surrogateescape"
        )
        weights.write_bytes(data if kind == "cfg" else spoil_weights(data, draw))
        found[outcome(use)] += 1
    assert found["refused"] > CASES // 3
    assert peak() - before < MOST_MEMORY
    if kind == "cfg":
        assert (
            found["read"] > CASES // 50
        )  # some changes leave a sound network: so the cases are not all trivial


@pytest.mark.slow
def test_every_truncation_of_a_small_file(tmp_path):
    """Each length of the header, and every 1,501st beyond it."""
    text, data = small_network(tmp_path / "sound")
    cfg, weights = cfgs.write(tmp_path, text), tmp_path / "x.weights"
    for length in [*range(64), *range(64, len(data), 1501)]:
        weights.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"x\.weights"):
            read_network(cfg, weights)
