"""detectors benchmark data: torchvision's pipelines do the same kind of work as ours; table and JSON file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

from detectors.commands.benchmark import command
from detectors.commands.benchmark.torchvision_pipelines import IMAGE_READERS, PIPELINES, TorchvisionPipeline
from detectors.data.shapes import write_shapes
from detectors.data.voc import read_voc


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    root = write_shapes(folder=tmp_path_factory.mktemp("shapes"), train=4, val=1, size=96)
    return read_voc(root=root, image_sets=["train"])


@pytest.mark.parametrize("backend", IMAGE_READERS)
@pytest.mark.parametrize("name", PIPELINES)
def test_torchvisions_pipelines_do_the_same_kind_of_work(annotations, name, backend):
    """uint8 images of the input size, boxes inside them: no step is skipped because types do not fit."""
    torch.manual_seed(0)
    pipeline = TorchvisionPipeline(name, (64, 48), backend)
    rows = annotations.rows(0)
    images = set()
    counts = []
    for _ in range(12):
        image, boxes, labels = pipeline(
            annotations.paths[0], annotations.boxes_original[rows], annotations.labels[rows]
        )
        assert image.shape == (3, 64, 48) and image.dtype == torch.uint8
        assert len(boxes) == len(labels)
        assert (boxes >= 0).all() and (boxes <= torch.tensor([48, 64, 48, 64])).all()
        images.add(image.numpy().tobytes())
        counts.append(len(boxes))
    assert len(images) == 1 if name == "none" else len(images) >= 10
    assert max(counts) > 0


def test_placement_and_crop_follow_the_pixels(annotations, tmp_path):
    """A red rectangle on black lies at torchvision's box, within 1.6 pixels."""
    path = str(tmp_path / "rectangle.png")
    box = np.array([[30.0, 20, 70, 50]])
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[20:50, 30:70, 0] = 255
    Image.fromarray(pixels).save(path)
    torch.manual_seed(1)
    for name in ("darknet", "darknet_2016"):
        pipeline = TorchvisionPipeline(name, (160, 160), "tensor")
        for _ in range(10):
            image, boxes, _ = pipeline(path, box, np.array([0]))
            # differs between channels for red, whatever its hue and saturation become, but not for grey
            spread = (image.amax(0) - image.amin(0)).numpy()
            rows, columns = np.nonzero(spread > 0.5 * spread.max())
            rectangle = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert_allclose(boxes[0].numpy(), rectangle, atol=1.6)


def test_the_table_and_the_file(tmp_path, capsys):
    """The file has the rates of every round; the table's ratio is recomputed from it."""
    file = tmp_path / "rates.json"
    settings = ["data.shapes.train=3", "data.shapes.val=1", f"paths.cache={tmp_path}"]
    options = ["--size", "32", "32", "--images", "2", "--repeats", "3", "--json", str(file)]
    command.main(["data", *settings, "--augment", "none", "course", *options])
    printed = capsys.readouterr().out
    rates = json.loads(file.read_text())["rates"]
    assert set(rates) == {"decode", "none", "course"}
    assert set(rates["none"]) == {"ours", "v2 tensor", "v2 pil"}
    assert all(len(each) == 3 and min(each) > 0 for group in rates.values() for each in group.values())
    ratios = [ours / max(tensor, pil) for ours, tensor, pil in zip(*rates["none"].values(), strict=True)]
    line = next(line for line in printed.splitlines() if line.startswith("none "))
    assert float(line.split()[4]) == pytest.approx(np.median(ratios), abs=0.051)


def test_zero_repeats_raise(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["data", "--repeats", "0"])
    assert "--repeats 0: must be 1 or more" in capsys.readouterr().err
