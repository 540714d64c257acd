"""detectors benchmark kmeans: both programs cluster the same boxes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from detectors.commands.benchmark import command, kmeans_speed
from detectors.commands.benchmark.kmeans_speed import box_sizes, lightnet_anchors
from detectors.commands.cluster.kmeans import kmeans, shapes_of


def test_the_table_and_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(kmeans_speed, "optional_peer", lambda name: (None, "not installed"))
    settings = ["data.shapes.train=4", "data.shapes.val=1", f"paths.cache={tmp_path}"]
    file = tmp_path / "kmeans.json"
    command.main(["kmeans", *settings, "--k", "2", "--restarts", "3", "--repeats", "1", "--json", str(file)])
    ours, theirs = json.loads(file.read_text())["rows"]
    shapes = shapes_of(box_sizes(settings))
    assert ours["facts"]["mean IoU"] == kmeans(shapes, 2, restarts=3).mean_iou
    assert f"{int(shapes.counts.sum())} boxes, k = 2, 3 restarts" in ours["what"]
    assert theirs["missing"] == "not installed"


def test_made_up_boxes_have_whole_pixels():
    wh = box_sizes([])
    assert len(wh) == pytest.approx(12_608, rel=0.05)  # VOC2007 trainval
    assert np.array_equal(wh, wh.round()) and wh.min() >= 1


def test_lightnet_clusters_the_same_boxes():
    """Two tight groups have their centres as anchors in any program."""
    lightnet = pytest.importorskip("lightnet")
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("sklearn")
    wh = np.array([[10.0, 20], [11, 20], [12, 20], [100, 50], [101, 50], [102, 50]])
    found = lightnet_anchors(lightnet, pandas, wh, 2, 3)
    np.testing.assert_allclose(sorted(found.tolist()), [[11, 20], [101, 50]], atol=1e-3)
