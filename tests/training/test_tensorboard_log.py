"""Event files, read back with TensorBoard's own reader."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.metadata import EXPERIMENT_TAG, SESSION_END_INFO_TAG, SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.pr_curve.plugin_data_pb2 import PrCurvePluginData
from tensorboard.util.tensor_util import make_ndarray

from detectors.metrics.pr_curves import PrCurve
from detectors.training.tensorboard_log import TensorBoardLog
from detectors.training.tracking import Tracker
from tests.faults import file_size_limit


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
    log(
        tmp_path,
        {step: {"train/loss/total": 100.0 + step} for step in range(6, 9)},
        pictures={8},
        first_step=6,
    )
    curves = read(tmp_path)
    assert points(curves, "train/loss/total") == [(s, float(s)) for s in range(6)] + [
        (s, 100.0 + s) for s in range(6, 9)
    ]
    assert [image.step for image in curves.Images("probe/detections/0")] == [0, 5, 8]


def test_without_first_step_it_would_overlap(tmp_path):
    """The proof that the test above can fail."""
    log(tmp_path, {step: {"train/loss/total": 0.0} for step in range(11)})
    log(tmp_path, {step: {"train/loss/total": 1.0} for step in range(6, 9)}, first_step=11)
    assert [step for step, _ in points(read(tmp_path), "train/loss/total")] != list(range(9))


def test_a_new_start_hides_an_earlier_one(tmp_path):
    """Without a checkpoint there is nothing to go on from."""
    log(tmp_path, {0: {"train/loss/total": 0.0}, 5: {"train/loss/total": 0.0}})
    log(tmp_path, {3: {"train/loss/total": 1.0}})
    assert points(read(tmp_path), "train/loss/total") == [(3, 1.0)]


def test_files_of_one_second_are_read_in_their_order(tmp_path, monkeypatch):
    """TensorBoard sorts them by name, which begins with the second of creation."""
    for step in range(12):
        monkeypatch.setattr("os.getpid", lambda step=step: 1000 - step)
        log(tmp_path, {step: {"train/loss/total": float(step)}}, first_step=step)
    assert points(read(tmp_path), "train/loss/total") == [(step, float(step)) for step in range(12)]


def test_a_point_is_in_the_file_when_the_call_returns(tmp_path):
    backend = TensorBoardLog(tmp_path)
    backend.scalars({"train/rate": 0.5}, 1)
    assert points(read(tmp_path), "train/rate") == [(1, 0.5)]
    backend.close(False)


def test_images_and_texts_come_back(tmp_path):
    images = [np.full((20, 30, 3), (90, 20, 10), np.uint8), np.full((10, 10, 3), 200, np.uint8)]
    tracker = Tracker([TensorBoardLog(tmp_path)])
    tracker.images("probe/detections", images, 4)
    tracker.text("run/config", "name: demo\nseed: 0")
    tracker.close()
    curves = read(tmp_path)
    sizes = [(event.height, event.width) for n in (0, 1) for event in curves.Images(f"probe/detections/{n}")]
    assert sizes == [(20, 30), (10, 10)]
    (first,) = curves.Images("probe/detections/0")
    decoded = Image.open(io.BytesIO(first.encoded_image_string))
    np.testing.assert_array_equal(np.asarray(decoded), images[0])  # RGB
    (text,) = curves.Tensors("run/config/text_summary")
    assert text.tensor_proto.string_val == [b"    name: demo\n    seed: 0"]


def test_hparams_stay_in_the_run_and_log_no_second_point(tmp_path):
    tracker = Tracker([TensorBoardLog(tmp_path)])
    tracker.hparams({"seed": 3, "width": 0.25, "clip": "none"}, ["val/AP50"])
    tracker.scalars({"val/AP50": 0.5}, 10)
    assert ended(tmp_path) is None  # a run that still trains is in the table, too
    tracker.close(finished=True)
    assert [path.is_file() for path in tmp_path.iterdir()] == [True]
    assert points(read(tmp_path), "val/AP50") == [(10, 0.5)]
    experiment = hparams_data(tmp_path, EXPERIMENT_TAG).experiment
    assert [metric.name.tag for metric in experiment.metric_infos] == ["val/AP50"]
    columns = {column.name: column.display_name for column in experiment.hparam_infos}
    assert columns == {"01 seed": "seed", "02 width": "width", "03 clip": "clip"}  # TensorBoard sorts by name
    settings = hparams_data(tmp_path, SESSION_START_INFO_TAG).session_start_info.hparams
    assert [settings[name].number_value for name in ("01 seed", "02 width")] == [3, 0.25]
    assert settings["03 clip"].string_value == "none"
    assert ended(tmp_path).status == STATUS_SUCCESS


def test_a_run_that_stops_does_not_count_as_ended(tmp_path):
    tracker = Tracker([TensorBoardLog(tmp_path)])
    tracker.hparams({"seed": 3}, [])
    tracker.close()
    assert ended(tmp_path) is None


def test_after_a_failed_write_the_file_is_whole(tmp_path):
    """A disk that was full for a while: the point is lost, the ones before and after are not."""
    backend = TensorBoardLog(tmp_path)
    backend.scalars({"train/rate": 1.0}, 1)
    (file,) = tmp_path.iterdir()
    with file_size_limit(file.stat().st_size + 10), pytest.raises(OSError, match="File too large"):
        backend.scalars({"train/rate": 2.0}, 2)
    backend.scalars({"train/rate": 3.0}, 3)
    backend.close(False)
    assert points(read(tmp_path), "train/rate") == [(1, 1.0), (3, 3.0)]


def test_pr_curves_come_back(tmp_path):
    counts = np.arange(101)
    curve = PrCurve(counts, counts + 1, counts + 2, counts / 100, counts / 200)
    tracker = Tracker([TensorBoardLog(tmp_path)])
    tracker.pr_curves({"pr/cat": curve}, 7)
    tracker.close()
    curves = read(tmp_path)
    (event,) = curves.Tensors("pr/cat")
    rows = make_ndarray(event.tensor_proto)
    assert event.step == 7
    np.testing.assert_array_equal(rows[:4], [counts, counts + 1, np.zeros(101), counts + 2])
    np.testing.assert_allclose(rows[4:], [counts / 100, counts / 200], rtol=1e-6)
    plugin = curves.summary_metadata["pr/cat"].plugin_data
    assert plugin.plugin_name == "pr_curves"
    assert PrCurvePluginData.FromString(plugin.content).num_thresholds == 101


def test_histograms_come_back(tmp_path):
    tracker = Tracker([TensorBoardLog(tmp_path)])
    tracker.histograms(
        {
            "weights/a": np.float32([1, 2, 2, 5]),
            "gradients/a": np.zeros(3, np.float32),
            "weights/b": np.zeros(0),
        },
        4,
    )
    tracker.close()
    curves = read(tmp_path)
    (weights,) = curves.Histograms("weights/a")
    (gradients,) = curves.Histograms("gradients/a")
    assert curves.Tags()["histograms"] == ["weights/a", "gradients/a"]  # none of an empty tensor
    assert (weights.step, weights.histogram_value.num) == (4, 4)
    assert (weights.histogram_value.min, weights.histogram_value.max) == (1, 5)
    assert gradients.histogram_value.num == 3


def hparams_data(folder, tag):
    metadata = read(folder).summary_metadata.get(tag)
    return None if metadata is None else HParamsPluginData.FromString(metadata.plugin_data.content)


def ended(folder):
    data = hparams_data(folder, SESSION_END_INFO_TAG)
    return data and data.session_end_info


def log(folder, values, *, pictures=(), first_step=0):
    tracker = Tracker([TensorBoardLog(folder, first_step=first_step)])
    for step, scalars in values.items():
        tracker.scalars(scalars, step)
        if step in pictures:
            tracker.images("probe/detections", [np.full((4, 4, 3), step, np.uint8)], step)
    tracker.close()


def read(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def points(curves, tag):
    return [(event.step, event.value) for event in curves.Scalars(tag)]
