"""The writer, read back with TensorBoard's own reader."""

import time

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import EXPERIMENT_TAG, SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from detectors.training.tracking import Tracker


def test_scalars_come_back(tmp_path):
    log(
        tmp_path,
        {
            3: {"train/loss/total": 1.5, "train/rate": torch.tensor(0.25)},
            7: {"train/loss/total": 0.5, "val_class/hair drier/AP50": 0.75},
        },
    )
    curves = read(tmp_path)
    assert points(curves, "train/loss/total") == [(3, 1.5), (7, 0.5)]
    assert points(curves, "train/rate") == [(3, 0.25)]
    assert points(curves, "val_class/hair drier/AP50") == [(7, 0.75)]


def test_resume_in_the_same_folder_never_overlaps(tmp_path):
    first = {step: {"train/loss/total": float(step)} for step in range(11)}
    log(tmp_path, first, pictures={0, 5, 10})
    time.sleep(1.01)  # event files are read in the order of their names, which begin with the second
    log(
        tmp_path,
        {step: {"train/loss/total": 100.0 + step} for step in range(6, 9)},
        pictures={8},
        purge_step=6,
    )
    curves = read(tmp_path)
    assert points(curves, "train/loss/total") == [(s, float(s)) for s in range(6)] + [
        (s, 100.0 + s) for s in range(6, 9)
    ]
    assert [image.step for image in curves.Images("probe/detections/0")] == [0, 5, 8]


def test_without_purge_step_it_would_overlap(tmp_path):
    """The reason for purge_step, and the proof that the test above can fail."""
    log(tmp_path, {step: {"train/loss/total": 0.0} for step in range(11)})
    log(tmp_path, {step: {"train/loss/total": 1.0} for step in range(6, 9)})
    assert [step for step, _ in points(read(tmp_path), "train/loss/total")] != list(range(9))


def test_images_and_texts_come_back(tmp_path):
    images = [np.full((20, 30, 3), 90, np.uint8), np.full((10, 10, 3), 200, np.uint8)]
    tracker = Tracker(tmp_path)
    tracker.images("probe/detections", images, 4)
    tracker.text("run/config", "name: demo\nseed: 0")
    tracker.close()
    curves = read(tmp_path)
    sizes = [(event.height, event.width) for n in (0, 1) for event in curves.Images(f"probe/detections/{n}")]
    assert sizes == [(20, 30), (10, 10)]
    (text,) = curves.Tensors("run/config/text_summary")
    assert text.tensor_proto.string_val == [b"    name: demo\n    seed: 0"]


def test_hparams_stay_in_the_run_and_log_no_second_point(tmp_path):
    tracker = Tracker(tmp_path)
    tracker.scalars({"val/AP50": 0.5}, 10)
    tracker.hparams(
        {"seed": 3, "model": {"width": 0.25, "anchors": [1, 2], "loss": None}, "progress": True},
        {"val/AP50": 0.5},
    )
    tracker.close()
    assert [path.is_file() for path in tmp_path.iterdir()] == [True]
    curves = read(tmp_path)
    assert points(curves, "val/AP50") == [(10, 0.5)]
    plugin = curves.summary_metadata
    names = HParamsPluginData.FromString(plugin[EXPERIMENT_TAG].plugin_data.content).experiment
    assert [metric.name.tag for metric in names.metric_infos] == ["val/AP50"]
    settings = HParamsPluginData.FromString(
        plugin[SESSION_START_INFO_TAG].plugin_data.content
    ).session_start_info.hparams
    assert settings["seed"].number_value == 3
    assert settings["model.width"].number_value == 0.25
    assert settings["model.anchors"].string_value == "[1, 2]"
    assert settings["model.loss"].string_value == "None"
    assert settings["progress"].string_value == "True"


@pytest.mark.parametrize(
    "tag",
    ["train/los/total", "AP50", "val_class//AP50", "val_class/cat", "train/loss/total2", "xtrain/rate", ""],
)
def test_unknown_tags_are_refused_before_anything_is_written(tmp_path, tag):
    tracker = Tracker(tmp_path)
    with pytest.raises(ValueError, match=r"is not in the table of tags in detectors/training/tags\.py"):
        tracker.scalars({"train/rate": 1.0, tag: 1.0}, 0)
    with pytest.raises(ValueError, match="is not in the table of tags"):
        tracker.text(tag, "text")
    with pytest.raises(ValueError, match="is not in the table of tags"):
        tracker.images("probe", [np.zeros((2, 2, 3), np.uint8)], 0)
    tracker.close()
    assert not any(read(tmp_path).Tags()[kind] for kind in ("scalars", "images", "tensors"))


def log(folder, values, *, pictures=(), purge_step=None):
    tracker = Tracker(folder, purge_step=purge_step)
    for step, scalars in values.items():
        tracker.scalars(scalars, step)
        if step in pictures:
            tracker.images("probe/detections", [np.full((4, 4, 3), step, np.uint8)], step)
    tracker.close()


def read(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def points(curves, tag):
    return [(event.step, event.value) for event in curves.Scalars(tag)]
