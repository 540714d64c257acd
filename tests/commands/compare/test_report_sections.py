"""The report of a comparison: page, Markdown and JSON hold the same numbers, and each has its meaning."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from detectors.commands.compare import disagreement
from detectors.commands.compare.pareto import on_front
from detectors.metrics.coco import evaluate_coco
from tests.commands.compare.test_analysis import compared, detected, scene, write_measured


class TablesOfPage(HTMLParser):
    """The rows of text of all tables, and the cells and headings without a meaning."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.unexplained: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.inside = True
            self.rows[-1].append("")
            if not dict(attrs).get("title"):
                self.unexplained.append(tag)

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def rows_of_markdown(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|") and not re.match(r"\|-+\|", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def report_files(tmp_path_factory) -> tuple[dict, Path]:
    place = tmp_path_factory.mktemp("report")
    for seed in (0, 1):
        write_measured(place / f"good{seed}", "good", seed, 3.0)
        write_measured(place / f"poor{seed}", "poor", seed, 20.0)
    places = [str(place / f"{name}{seed}") for name in ("good", "poor") for seed in (0, 1)]
    return compared(places, place), place / "comparison"


def test_page_and_markdown_have_the_same_tables(report_files):
    _, path = report_files
    page = TablesOfPage(path.with_suffix(".html").read_text())
    assert page.rows == rows_of_markdown(path.with_suffix(".md").read_text())
    assert page.unexplained == []
    assert len(page.rows) > 50


def numbers_in(text: str) -> list[str]:
    return re.findall(r"-?\d[\d,]*\.?\d*", text)


def test_the_tables_hold_the_numbers_of_the_json_file(report_files):
    content, path = report_files
    rows = {row[0]: row[1:] for row in reversed(rows_of_markdown(path.with_suffix(".md").read_text()))}
    good, poor = content["detectors"]

    def texts(number: dict) -> list[str]:
        values = [number["value"], *number["over_images"], *(number["over_images_and_seeds"] or ())]
        return [f"{value:.3f}" for value in values]

    titles = ("AP", "AP50", "AP75", "AP50_voc07", "AP50_voc10")
    for detector in (good, poor):
        expected = [text for name in titles for text in texts(detector["estimates"][name])]
        best = [f"{detector['best_f1'][key]:.3f}" for key in ("value", "score")]
        assert numbers_in(" ".join(rows[detector["name"]])) == ["2", *expected, *best]
    (pair,) = content["differences"]
    for name in ("disc", "ring"):
        records = (good, poor, pair)
        expected = [text for record in records for text in texts(record["per_class"][name])]
        assert numbers_in(" ".join(rows[name])) == expected
    for kind, share in good["recall"]["size"].items():
        if share["boxes"]:
            recall = [f"{d['recall']['size'][kind]['found'] / share['boxes']:.3f}" for d in (good, poor)]
            cells = rows[f"size: {kind}"]
            assert [cells[0], cells[1][:5], cells[2][:5]] == [str(share["boxes"] // 2), *recall]
    for image in content["disagreement"]:
        expected = [image["difference"], *image["f1"].values()]
        assert rows[image["image"]] == [f"{value:.3f}" for value in expected]


def test_ap_by_size_is_cocos(report_files):
    content, _ = report_files
    annotations = scene(0)
    stats = [evaluate_coco(annotations, detected(annotations, seed, 3.0)).stats for seed in (0, 1)]
    estimates = content["detectors"][0]["estimates"]
    for name in ("AP_small", "AP_medium", "AP_large"):
        values = [one[name] for one in stats]
        if min(values) >= 0:
            assert estimates[name]["value"] == pytest.approx(np.mean(values))
            low, high = estimates[name]["over_images"]
            assert low <= estimates[name]["value"] <= high


def test_what_is_missing_is_a_note(report_files):
    content, _ = report_files
    notes = "\n".join(content["notes"])
    for name in ("good", "poor"):
        assert f"no speed of {name}: " in notes and f"no reach of the anchors of {name}: " in notes
    assert "8 images on which detectors differ most cannot be shown: /x/image" in notes
    assert content["speed"] is None and list(content["pareto"]) == ["gflops"]


def test_no_speed_says_nothing_about_speed(tmp_path):
    write_measured(tmp_path / "good", "good", 0, 3.0)
    content = compared([str(tmp_path / "good")], tmp_path, "--no-speed")
    assert not any("no speed" in note for note in content["notes"])
    assert content["disagreement"] == []


def test_pictures_are_embedded_up_to_a_limit(tmp_path, monkeypatch):
    annotations = scene(0)
    image = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
    for n in range(len(annotations)):
        cv2.imwrite(str(tmp_path / f"image{n}.jpg"), image)
    moved = type(annotations)(
        **vars(annotations) | {"paths": [str(tmp_path / f"image{n}.jpg") for n in range(len(annotations))]}
    )
    for name, noise in (("good", 3.0), ("poor", 20.0)):
        write_measured(tmp_path / name, name, 0, noise, annotations=moved)
    runs = [str(tmp_path / name) for name in ("good", "poor")]
    compared(runs, tmp_path, "--no-speed")
    page = (tmp_path / "comparison.html").read_text()
    assert page.count('src="data:image/jpeg') == 3 * 8
    assert len(page) < disagreement.PICTURE_LIMIT + 1_000_000
    monkeypatch.setattr(disagreement, "PICTURE_LIMIT", 300_000)
    content = compared(runs, tmp_path, "--no-speed")
    shown = (tmp_path / "comparison.html").read_text().count('src="data:image/jpeg') // 3
    assert 0 < shown < 8
    assert f"pictures of {shown} images only, so that the page stays small" in content["notes"]


def test_the_pareto_front():
    points = {"cheap": (1.0, 0.2), "beaten": (2.0, 0.1), "good": (3.0, 0.5), "dear": (4.0, 0.5)}
    assert on_front(points) == ["cheap", "good"]
    assert on_front({"a": (1.0, 0.5), "b": (1.0, 0.5)}) == ["a", "b"]
    assert on_front({"a": (1.0, 0.5), "b": (1.0, 0.4)}) == ["a"]
