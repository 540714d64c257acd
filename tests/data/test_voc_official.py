"""The VOC reader on VOC2007's and VOC2012's own annotations, against the published counts and against a reader of plain text."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detectors.data.class_names import VOC_CLASSES
from detectors.data.voc import CORNERS, scan_voc

SAMPLE = 12  # every so many-th image in the plain tests
PUBLISHED = {  # split -> images, objects, objects that are not difficult: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/dbstats.html
    "VOC2007/trainval": (5011, 15662, 12608),
    "VOC2007/test": (4952, 14976, 12032),
    "VOC2012/trainval": (11540, 31561, 27450),
}


def unpack(shared: Path, devkit: Path, splits: list[str], every: int) -> dict[str, list[str]]:
    """Writes every `every`-th image's XML of each split, an empty image for each, and the shortened lists. Split -> its stems."""
    chosen: dict[str, list[str]] = {}
    for year in sorted({split.partition("/")[0] for split in splits}):
        folder = devkit / year
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / name).mkdir(parents=True)
        with tarfile.open(shared / f"data/voc-annotations/{year}_annotations_splits.tar.xz") as archive:
            content = {
                Path(member.name).name: archive.extractfile(member).read()
                for member in archive
                if member.isfile()
            }
        for split in (split for split in splits if split.startswith(year)):
            name = split.partition("/")[2]
            chosen[split] = content[f"{name}.txt"].decode().split()[::every]
            (folder / f"ImageSets/Main/{name}.txt").write_text("\n".join(chosen[split]))
            for stem in chosen[split]:
                (folder / f"Annotations/{stem}.xml").write_bytes(content[f"{stem}.xml"])
                (folder / f"JPEGImages/{stem}.jpg").touch()
    return chosen


def objects(text: str) -> list[tuple[str, list[float], bool, bool]]:
    """Name, corners as written, difficult, and whether xmax stands first; by regular expressions, parts of persons cut out."""
    found = []
    for element in re.findall(r"<object>(.*?)</object>", text, re.DOTALL):
        element = re.sub(r"<part>.*?</part>", "", element, flags=re.DOTALL)
        (box,) = re.findall(r"<bndbox>(.*?)</bndbox>", element, re.DOTALL)
        corners = dict(re.findall(r"<(\w+)>\s*([\d.]+)\s*</", box))
        (name,) = re.findall(r"<name>(.*?)</name>", element)
        difficult = "<difficult>1</difficult>" in element
        found.append(
            (name, [float(corners[corner]) for corner in CORNERS], difficult, next(iter(corners)) == "xmax")
        )
    return found


def check_against_text(devkit: Path, chosen: dict[str, list[str]]) -> int:
    """Every object of every image; returns how many list xmax first."""
    first = 0
    for split, stems in chosen.items():
        truths, problems = scan_voc(root=devkit, image_sets=[split], class_names=list(VOC_CLASSES))
        assert not problems and truths.image_ids == stems
        folder = devkit / split.partition("/")[0] / "Annotations"
        expected = [objects((folder / f"{stem}.xml").read_text()) for stem in stems]
        assert_array_equal(np.diff(truths.offsets), [len(found) for found in expected])
        rows = [row for found in expected for row in found]
        assert_array_equal(
            truths.boxes_original, np.array([corners for _, corners, _, _ in rows]) - [1, 1, 0, 0]
        )
        assert [VOC_CLASSES[label] for label in truths.labels] == [name for name, _, _, _ in rows]
        assert_array_equal(truths.difficult, [difficult for _, _, difficult, _ in rows])
        first += sum(xmax for _, _, _, xmax in rows)
        assert (truths.boxes_original >= 0).all() and (
            truths.boxes_original[:, 2:] <= truths.sizes[truths.image][:, ::-1]
        ).all()
    return first


@pytest.mark.data
def test_a_sample_equals_a_reading_by_regular_expressions(shared, tmp_path):
    chosen = unpack(shared, tmp_path, ["VOC2007/test", "VOC2012/trainval"], SAMPLE)
    first = check_against_text(tmp_path, chosen)
    assert first > 18877 / SAMPLE / 2


@pytest.mark.data
@pytest.mark.slow
def test_all_counts_equal_the_published_tables(shared, tmp_path):
    chosen = unpack(shared, tmp_path, list(PUBLISHED), 1)
    for split, counts in PUBLISHED.items():
        truths, problems = scan_voc(root=tmp_path, image_sets=[split])
        assert (len(truths), len(truths.labels), int((~truths.difficult).sum())) == counts
        assert truths.class_names == VOC_CLASSES and not problems
    assert (
        check_against_text(tmp_path, {split: chosen[split] for split in ("VOC2007/trainval", "VOC2007/test")})
        == 0
    )
    assert check_against_text(tmp_path, {"VOC2012/trainval": chosen["VOC2012/trainval"]}) == 18877
    joined, _ = scan_voc(
        root=tmp_path, image_sets=["VOC2007/trainval", "VOC2012/trainval"], class_names=list(VOC_CLASSES)
    )
    assert len(joined) == len(set(joined.image_ids)) == 5011 + 11540 and joined.image_ids[0] == "000005"
