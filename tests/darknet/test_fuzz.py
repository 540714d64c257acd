"""Broken cfg and weights files: each is read or raises ValueError, quickly and with little memory."""

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
MAX_SECONDS = 10.0  # for one case, on a shared machine
MAX_MEMORY = 1 << 20  # KiB more than before the test
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
    """cfg and weights of a narrow YOLOv2, which has every kind of layer of a detector."""
    text = cfgs.yolov2(0.0625, 3)
    folder.mkdir(exist_ok=True)
    convs = [
        [layer.settings.filters, layer.input[0], layer.settings.size, int(layer.settings.batch_normalize)]
        for layer in read_cfg(cfgs.write(folder, text)).layers
        if layer.kind == "convolutional"
    ]
    return text, streams.write(folder / "net.weights", convs, 1).read_bytes()


def break_cfg(text: str, rng: Random) -> str:
    """One to three changes: lines deleted, repeated or moved, a line with another number, a new line, or a
    random character."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 3)):
        n = rng.randrange(len(lines))
        match rng.randrange(7):
            case 0:
                del lines[n : n + rng.choice((1, 2, 8, 1000))]
            case 1:
                lines[n:n] = lines[n : n + rng.randint(1, 8)] * rng.choice((1, 2, 200))
            case 2:
                lines.insert(rng.randrange(len(lines)), lines.pop(n))
            case 3 | 4:
                lines[n] = lines[n].partition("=")[0] + "=" + rng.choice(NUMBERS)
            case 5:
                lines.insert(n, rng.choice(WORDS))
            case 6:
                position = rng.randint(0, len(lines[n]))
                character = chr(rng.randrange(0x250))
                lines[n] = lines[n][:position] + character + lines[n][position + rng.randint(0, 2) :]
        lines = lines or [""]
    return "\n".join(lines)


def break_weights(data: bytes, rng: Random) -> bytes:
    """Truncated, extended, another header, noise inserted, or noise only."""
    match rng.randrange(6):
        case 0:
            return data[: rng.randrange(len(data))]
        case 1:
            return data[: rng.randrange(64)]
        case 2:
            return data + rng.randbytes(rng.randint(1, 4096))
        case 3:
            return rng.randbytes(20) + data[20:]
        case 4:
            start = rng.randrange(len(data))
            return data[:start] + rng.randbytes(rng.randint(1, 4000)) + data[start:]
        case _:
            return rng.randbytes(rng.randint(0, len(data)))


def outcome(action: Callable[[], object]) -> str:
    """Either "read" or, on a ValueError, "refused". Other exceptions propagate; slowness fails the test."""

    start = time.monotonic()
    try:
        action()
        result = "read"
    except ValueError:
        result = "refused"
    assert time.monotonic() - start < MAX_SECONDS
    return result


def peak_memory() -> int:
    """KiB"""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cfg", "weights", "both"])
@torch.no_grad()
def test_broken_files_are_read_or_refused(kind, tmp_path):
    text, data = small_network(tmp_path / "valid")
    cfg = tmp_path / "x.cfg"
    weights = tmp_path / "x.weights"
    rng = Random(kind)
    memory_before = peak_memory()
    outcomes = Counter()

    def use() -> None:
        """What predict does, on an input of the cfg's size unless that is large."""
        network, _ = read_network(cfg, weights)
        net = network.config.net
        if network.config.region and net.width * net.height * net.channels < 1 << 18:
            images = torch.zeros(1, net.channels, net.height, net.width)
            network.detections(images, score_threshold=0.3, nms_iou=0.45)

    for _ in range(CASES):
        cfg_text = text if kind == "weights" else break_cfg(text, rng)
        cfg.write_text(cfg_text, encoding="utf-8", errors="surrogateescape")
        weights.write_bytes(data if kind == "cfg" else break_weights(data, rng))
        outcomes[outcome(use)] += 1
    assert outcomes["refused"] > CASES // 3
    assert peak_memory() - memory_before < MAX_MEMORY
    if kind == "cfg":
        assert (
            outcomes["read"] > CASES // 50
        )  # some changes keep the network valid: not all cases are trivial


@pytest.mark.slow
def test_every_truncation_of_a_small_file(tmp_path):
    """The first 64 lengths, and then every 1,501st."""
    text, data = small_network(tmp_path / "valid")
    cfg = cfgs.write(tmp_path, text)
    weights = tmp_path / "x.weights"
    for length in [*range(64), *range(64, len(data), 1501)]:
        weights.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"x\.weights"):
            read_network(cfg, weights)
