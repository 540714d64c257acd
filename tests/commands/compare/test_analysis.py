"""Comparisons of runs with saved detections: seeds are one detector, intervals, refusals, equal numbers."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from detectors.annotations import Annotations
from detectors.commands.compare import command
from detectors.commands.compare.analysis_numbers import validation_curve
from detectors.commands.compare.fairness import equal_budgets, unfair
from detectors.metrics.coco import judge_by_size
from detectors.metrics.report import report
from detectors.metrics.resampling import coco_outcomes, drawn_weights
from detectors.structures import Detections
from detectors.training.detections_file import write_detections
from tests.commands.compare.test_command import write_run
from tests.metrics.test_intervals import resampled_coco

PROTOCOL = {
    "score_threshold": 0.01,
    "nms_iou": 0.45,
    "candidates_per_class": 400,
    "max_detections": 200,
    "resize": "any",
}
CLASSES = ("disc", "ring")


def scene(seed: int, images: int = 40) -> Annotations:
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 5, images)
    corner = rng.uniform(0, 300, (count.sum(), 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 150, (count.sum(), 2))], axis=1)
    return Annotations(
        class_names=CLASSES,
        image_ids=[f"image{n}" for n in range(images)],
        paths=[f"/x/image{n}.jpg" for n in range(images)],
        sizes=np.full((images, 2), 500),
        offsets=np.concatenate([[0], count.cumsum()]),
        boxes_original=boxes,
        labels=rng.integers(0, 2, count.sum()),
        difficult=np.zeros(count.sum(), bool),
        crowd=np.zeros(count.sum(), bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        category_ids=(1, 2),
    )


def detected(annotations: Annotations, seed: int, noise: float) -> Detections:
    """Each box once, shifted by `noise` pixels, and as many wrong detections of lower scores."""
    rng = np.random.default_rng(seed)
    boxes = annotations.boxes_original + rng.normal(0, noise, annotations.boxes_original.shape)
    wrong = rng.permutation(annotations.boxes_original + 200)
    return Detections(
        torch.from_numpy(np.tile(annotations.image, 2)),
        torch.from_numpy(np.concatenate([boxes, wrong])).float(),
        torch.from_numpy(
            np.concatenate([rng.uniform(0.3, 1, len(boxes)), rng.uniform(0.1, 0.6, len(wrong))])
        ).float(),
        torch.from_numpy(np.tile(annotations.labels, 2)),
    )


def write_measured(
    folder: Path, name: str, seed: int, noise: float, annotations: Annotations | None = None, **protocol
) -> None:
    annotations = scene(0) if annotations is None else annotations
    detections = detected(annotations, seed, noise)
    evaluated = {**report(annotations, detections).as_dict(), "protocol": PROTOCOL | protocol}
    memory_format = "contiguous" if seed else "channels_last"  # as a measurement at the start may choose
    settings = f"name: {name}\nseed: {seed}\nmodel: {{width: {noise}}}\n"
    settings += f"trainer: {{memory_format: {memory_format}}}\n"
    write_run(folder, name, evaluated=evaluated, settings=settings)
    write_detections(folder / "detections.npz", annotations, detections)


@pytest.fixture
def runs(tmp_path) -> list[str]:
    for seed in (0, 1, 2):
        write_measured(tmp_path / f"good{seed}", "good", seed, 3.0)
        write_measured(tmp_path / f"poor{seed}", "poor", seed, 20.0)
    return [str(tmp_path / f"{name}{seed}") for name in ("good", "poor") for seed in (0, 1, 2)]


def compared(runs: list[str], place: Path, *options: str) -> dict:
    command.main([*runs, *options, "--resamples", "100", "--output", str(place / "comparison")])
    return json.loads((place / "comparison.json").read_text())


def test_seeds_are_one_detector(runs, tmp_path):
    content = compared(runs, tmp_path)
    good, poor = content["detectors"]
    assert (good["name"], good["seeds"], poor["name"]) == ("good", [0, 1, 2], "poor")
    values = [run["AP"] for run in content["runs"]]
    assert good["estimates"]["AP"]["value"] == pytest.approx(np.mean(values[:3]))
    (difference,) = content["differences"]
    assert difference["pairs"] == 3
    assert difference["estimates"]["AP"]["value"] == pytest.approx(np.mean(values[:3]) - np.mean(values[3:]))
    low, high = difference["estimates"]["AP"]["over_images_and_seeds"]
    assert 0 < low < high
    assert difference["p"]["AP"] < 0.05


def test_intervals_over_images_are_those_of_the_resampled_sets(runs, tmp_path):
    content = compared(runs[:1], tmp_path)
    annotations = scene(0)
    judged = judge_by_size(annotations, detected(annotations, 0, 3.0))
    outcomes = coco_outcomes(annotations, judged)[0]
    draws = resampled_coco(outcomes, drawn_weights(len(annotations), 100, seed=0))["AP"]
    estimate = content["detectors"][0]["estimates"]["AP"]
    expected = np.quantile(draws, (0.025, 0.975)) - draws.mean() + estimate["value"]
    assert estimate["over_images"] == pytest.approx(expected)
    assert estimate["over_images_and_seeds"] is None
    assert content["differences"] == []


def test_markdown_and_json_hold_the_same_numbers(runs, tmp_path):
    content = compared(runs, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    for detector in content["detectors"]:
        for estimate in detector["estimates"].values():
            low, high = estimate["over_images"]
            assert f"{estimate['value']:.3f} [{low:.3f}, {high:.3f}]" in text
        for kind, cost in detector["error_costs"].items():
            assert f"{cost:.3f} ({detector['error_counts'][kind]:,.0f})" in text
        assert f"{detector['d_ece']:.3f}" in text
    (difference,) = content["differences"]
    assert f"{difference['p']['AP50']:.3f}" in text


def refused(capsys, runs: list[str], place: Path) -> str:
    with pytest.raises(SystemExit) as end:
        compared(runs, place)
    assert end.value.code == 2
    assert not (place / "comparison.json").exists()
    return capsys.readouterr().err


def test_a_rigged_pair_is_refused(tmp_path, capsys):
    write_measured(tmp_path / "a", "good", 0, 3.0)
    edited = scene(0)
    edited.boxes_original[0] += 1
    write_measured(tmp_path / "truths", "rigged", 0, 3.0, annotations=edited)
    write_measured(tmp_path / "floor", "rigged", 0, 3.0, score_threshold=0.5)
    write_measured(tmp_path / "resize", "rigged", 0, 3.0, resize="stretch")
    write_measured(tmp_path / "other", "rigged", 0, 3.0, annotations=scene(1))
    pair = [str(tmp_path / "a")]
    assert "on different ground truth" in refused(capsys, [*pair, str(tmp_path / "truths")], tmp_path)
    assert "on different ground truth" in refused(capsys, [*pair, str(tmp_path / "other")], tmp_path)
    message = refused(capsys, [*pair, str(tmp_path / "floor")], tmp_path)
    assert (
        "score_threshold (the lowest score that counts): good 0.01, rigged 0.5; evaluate them alike"
        in message
    )
    assert "--unfair-ok" in message
    assert "input.resize: good any, rigged stretch" in refused(
        capsys, [*pair, str(tmp_path / "resize")], tmp_path
    )
    content = compared([*pair, str(tmp_path / "floor")], tmp_path, "--unfair-ok")
    assert content["notes"][0].startswith("UNFAIR: the runs differ in score_threshold")
    assert "UNFAIR: the runs differ in score_threshold" in (tmp_path / "comparison.md").read_text()


def test_budgets():
    def run(name, images, seconds, gflops):
        return {"name": name, "images_seen": images, "train_seconds": seconds, "gflops": gflops}

    assert equal_budgets([run("a", 800, 10, 1), run("b", 800, 99, 2)]) == ["images seen"]
    assert equal_budgets([run("a", 800, 100, 1), run("b", 500, 101, 2)]) == ["training seconds"]
    assert equal_budgets([run("a", 800, 10, 1), run("b", 400, 99, 2)]) == ["FLOPs"]
    (reason,) = unfair([run("a", 800, 10, 1), run("b", 700, 99, 2)])
    assert "a 800, b 700" in reason
    assert unfair([run("a", 800, 10, 1)]) == []


def test_runs_without_detections_are_named(tmp_path, runs):
    (tmp_path / "poor1" / "detections.npz").unlink()
    content = compared(runs, tmp_path)
    assert content["detectors"] == []
    assert content["notes"] == [
        "equal budgets, within 2%: images seen, training seconds, FLOPs",
        "no intervals, differences and reasons, because these runs have no saved detections; evaluate them "
        "again: poor (seed=1)",
    ]


def test_damaged_detections_are_one_message(tmp_path, runs, capsys):
    (tmp_path / "poor1" / "detections.npz").write_bytes(b"nothing")
    message = refused(capsys, runs, tmp_path)
    assert f"{tmp_path}/poor1/detections.npz: not a file of detections that can be used" in message
    assert f"python evaluate.py run={tmp_path}/poor1" in message
    assert "Traceback" not in message


def test_too_few_resamples(runs, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main([*runs, "--resamples", "10"])
    assert "--resamples 10: must be 40 or more" in capsys.readouterr().err


class Page(HTMLParser):
    """The cells of a page's tables, the addresses that it would load, and its tags that are still open."""

    VOID = frozenset({"meta", "br", "img", "link"})
    EMBEDDED = ("#", "data:image/")

    def __init__(self, text: str):
        super().__init__()
        self.cells: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data


def test_the_page_holds_the_numbers_of_the_json_file_and_loads_nothing(runs, tmp_path):
    content = compared(runs, tmp_path)
    page = Page((tmp_path / "comparison.html").read_text())
    assert page.open == []
    assert [address for address in page.addresses if not address.startswith(Page.EMBEDDED)] == []
    for record in (*content["detectors"], *content["differences"]):
        for number in record["estimates"].values():
            low, high = number["over_images"]
            wide = "{:.3f}, {:.3f}".format(*number["over_images_and_seeds"])
            assert f"{number['value']:.3f} [{low:.3f}, {high:.3f}] {{{wide}}}" in page.cells
    for detector in content["detectors"]:
        for kind, cost in detector["error_costs"].items():
            assert f"{cost:.3f} ({detector['error_counts'][kind]:,.0f})" in page.cells
    assert "AP (COCO)" in (text := (tmp_path / "comparison.html").read_text())
    assert text.count("<svg") == 8 and "not fair" not in text


def test_an_unfair_page_says_so_and_names_are_escaped(tmp_path):
    write_measured(tmp_path / "a", "<b>bold</b>", 0, 3.0)
    write_measured(tmp_path / "b", "other", 0, 3.0, score_threshold=0.5)
    compared([str(tmp_path / "a"), str(tmp_path / "b")], tmp_path, "--unfair-ok")
    text = (tmp_path / "comparison.html").read_text()
    assert "This comparison is not fair." in text
    assert "<b>bold" not in text and "&lt;b&gt;bold" in text


def test_runs_without_detections_have_a_page_too(tmp_path, runs):
    (tmp_path / "poor1" / "detections.npz").unlink()
    compared(runs, tmp_path)
    assert "0.500" not in Page((tmp_path / "comparison.html").read_text()).open
    assert "no intervals" in (tmp_path / "comparison.html").read_text()


def test_training_curves_come_from_metrics_csv(runs, tmp_path):
    record = {"folder": runs[0], "images_seen": 800, "steps": 100, "train_seconds": 360.0}
    assert validation_curve(record) == {}
    (Path(runs[0]) / "metrics.csv").write_text(
        "step,tag,value\n50,val/AP,0.25\n50,train/rate,0.1\n100,val/AP,0.5\n"
    )
    curve = validation_curve(record)
    for x, expected in (("step", [50, 100]), ("images", [400, 800]), ("hours", [0.05, 0.1])):
        assert_allclose(curve[x], expected)
    assert_allclose(curve["AP"], [0.25, 0.5])
