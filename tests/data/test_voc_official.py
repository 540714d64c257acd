"""The VOC reader on the annotations of VOC2007 and VOC2012.

It is compared with the published counts and with a reading of the XML by regular expressions.
"""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detectors.data.class_names import VOC_CLASSES
from detectors.data.voc import scan_voc
from detectors.data.voc_xml import CORNERS

SAMPLE_STRIDE = 12  # the plain tests read every 12th image
# Split -> images, objects, objects that are not difficult:
# http://host.robots.ox.ac.uk/pascal/VOC/voc2012/dbstats.html
PUBLISHED = {
    "VOC2007/trainval": (5011, 15662, 12608),
    "VOC2007/test": (4952, 14976, 12032),
    "VOC2012/trainval": (11540, 31561, 27450),
}


def unpack(shared: Path, devkit: Path, splits: list[str], stride: int) -> dict[str, list[str]]:
    """Write the XML files of every `stride`-th image of each split, with empty images and shortened lists.

    Returns split -> its stems.
    """
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
        for split in splits:
            if not split.startswith(year):
                continue
            name = split.partition("/")[2]
            chosen[split] = content[f"{name}.txt"].decode().split()[::stride]
            (folder / f"ImageSets/Main/{name}.txt").write_text("\n".join(chosen[split]))
            for stem in chosen[split]:
                (folder / f"Annotations/{stem}.xml").write_bytes(content[f"{stem}.xml"])
                (folder / f"JPEGImages/{stem}.jpg").touch()
    return chosen


def objects(text: str) -> list[tuple[str, list[float], bool, bool]]:
    """(name, corners as written, difficult, xmax is first) of each object, without the parts of persons."""
    rows = []
    for element in re.findall(r"<object>(.*?)</object>", text, re.DOTALL):
        element = re.sub(r"<part>.*?</part>", "", element, flags=re.DOTALL)
        (box,) = re.findall(r"<bndbox>(.*?)</bndbox>", element, re.DOTALL)
        corners = dict(re.findall(r"<(\w+)>\s*([\d.]+)\s*</", box))
        (name,) = re.findall(r"<name>(.*?)</name>", element)
        difficult = "<difficult>1</difficult>" in element
        xmax_first = next(iter(corners)) == "xmax"
        rows.append((name, [float(corners[corner]) for corner in CORNERS], difficult, xmax_first))
    return rows


def check_against_text(devkit: Path, chosen: dict[str, list[str]]) -> int:
    """Compare every object of every image. Returns the number of objects with xmax first."""
    xmax_first = 0
    for split, stems in chosen.items():
        annotations, problems = scan_voc(root=devkit, image_sets=[split], class_names=list(VOC_CLASSES))
        assert not problems and annotations.image_ids == stems
        folder = devkit / split.partition("/")[0] / "Annotations"
        expected = [objects((folder / f"{stem}.xml").read_text()) for stem in stems]
        assert_array_equal(np.diff(annotations.offsets), [len(rows) for rows in expected])
        rows = [row for image_rows in expected for row in image_rows]
        corners = np.array([corners for _, corners, _, _ in rows])
        assert_array_equal(annotations.boxes_original, corners - [1, 1, 0, 0])
        assert [VOC_CLASSES[label] for label in annotations.labels] == [name for name, _, _, _ in rows]
        assert_array_equal(annotations.difficult, [difficult for _, _, difficult, _ in rows])
        xmax_first += sum(first for _, _, _, first in rows)
        assert (annotations.boxes_original >= 0).all()
        assert (annotations.boxes_original[:, 2:] <= annotations.sizes[annotations.image][:, ::-1]).all()
    return xmax_first


@pytest.mark.data
def test_a_sample_equals_a_reading_by_regular_expressions(shared, tmp_path):
    chosen = unpack(shared, tmp_path, ["VOC2007/test", "VOC2012/trainval"], SAMPLE_STRIDE)
    xmax_first = check_against_text(tmp_path, chosen)
    assert xmax_first > 18877 / SAMPLE_STRIDE / 2


@pytest.mark.data
@pytest.mark.slow
def test_all_counts_equal_the_published_tables(shared, tmp_path):
    chosen = unpack(shared, tmp_path, list(PUBLISHED), stride=1)
    for split, counts in PUBLISHED.items():
        annotations, problems = scan_voc(root=tmp_path, image_sets=[split])
        assert (len(annotations), len(annotations.labels), int((~annotations.difficult).sum())) == counts
        assert annotations.class_names == VOC_CLASSES and not problems
    voc2007 = {split: chosen[split] for split in ("VOC2007/trainval", "VOC2007/test")}
    assert check_against_text(tmp_path, voc2007) == 0
    assert check_against_text(tmp_path, {"VOC2012/trainval": chosen["VOC2012/trainval"]}) == 18877
    joined, _ = scan_voc(
        root=tmp_path, image_sets=["VOC2007/trainval", "VOC2012/trainval"], class_names=list(VOC_CLASSES)
    )
    assert len(joined) == len(set(joined.image_ids)) == 5011 + 11540 and joined.image_ids[0] == "000005"
