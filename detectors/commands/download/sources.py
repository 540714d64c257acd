"""The data sets that can be downloaded: their archives, what these hold, and how one sees that all of it is there.

Sizes are those that the servers name; they only serve to ask for disk space. VOC's checksums are torchvision's (tests/downloads compares),
COCO has published none, and GitHub packs BCCD's archive anew: what these two hold is checked by the CRC of each file in the zip.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
COCO = "http://images.cocodataset.org"  # without https: the certificate of its host is for another name
BCCD_COMMIT = "d272fb14cdff6e473fafeeeba32aba5f560e9e43"


@dataclass(frozen=True)
class Archive:
    """A .tar or .zip, and what of it goes where."""

    url: str
    size: int  # bytes
    unpacked: int  # bytes on the disk, rounded up
    take: tuple[
        tuple[str, str], ...
    ]  # (file or folder in the archive, its place below the data set's root); the rest is left out
    there: Callable[[Path], bool]  # root -> whether all that `data=...` reads of this archive is there
    md5: str | None = None  # None: none is published
    file_name: str = ""  # by which it is kept; empty: the end of the URL

    @property
    def name(self) -> str:
        return self.file_name or self.url.rpartition("/")[2]


@dataclass(frozen=True)
class DataSource:
    """A data set."""

    title: str
    config: str  # the yaml of conf/data that says where it belongs
    page: str
    terms: str
    archives: tuple[Archive, ...]
    remark: str = ""  # what the yaml needs besides


def lists_complete(root: Path, *, year: str = "", splits: tuple[str, ...]) -> bool:
    """Whether VOC's split lists are in root/year, and each image that they name with its annotation."""
    folder = root / year
    lists = [folder / "ImageSets" / "Main" / f"{split}.txt" for split in splits]
    if not all(path.is_file() for path in lists):
        return False
    listed = {stem for path in lists for stem in path.read_text().split()}
    return bool(listed) and all(listed <= _stems(folder / part) for part in ("JPEGImages", "Annotations"))


def images_complete(root: Path, *, folder: str, count: int) -> bool:
    """Whether root/folder holds `count` files."""
    return len(_stems(root / folder)) >= count


def files_complete(root: Path, *, names: tuple[str, ...]) -> bool:
    return all((root / name).is_file() for name in names)


def _stems(folder: Path) -> set[str]:
    """File names without their suffix; none if there is no such folder."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {os.path.splitext(entry.name)[0] for entry in entries}


def _voc(file: str, *, year: str, split: str, size: int, md5: str) -> Archive:
    there = partial(lists_complete, year=f"VOC{year}", splits=(split,))
    url = f"{VOC}/voc{year}/{file}"
    return Archive(
        url,
        size=size,
        unpacked=size * 11 // 10,
        take=((f"VOCdevkit/VOC{year}", f"VOC{year}"),),
        there=there,
        md5=md5,
    )


def _coco_images(split: str, *, count: int, size: int) -> Archive:
    there = partial(images_complete, folder=split, count=count)
    return Archive(
        f"{COCO}/zips/{split}.zip", size=size, unpacked=size * 105 // 100, take=((split, split),), there=there
    )


VOC_TERMS = "the images are from Flickr, and their use must respect Flickr's terms"

SOURCES = {
    "voc2007": DataSource(
        title="PASCAL VOC 2007, trainval and test",
        config="voc07",
        page=f"{VOC}/voc2007/",
        terms=VOC_TERMS,
        archives=(
            _voc(
                "VOCtrainval_06-Nov-2007.tar",
                year="2007",
                split="trainval",
                size=460_032_000,
                md5="c52e279531787c972589f7e41ab4ae64",
            ),
            _voc(
                "VOCtest_06-Nov-2007.tar",
                year="2007",
                split="test",
                size=451_020_800,
                md5="b6e924de25625d8de591ea690078ad9f",
            ),
        ),
    ),
    "voc2012": DataSource(
        title="PASCAL VOC 2012, trainval",
        config="voc0712",
        remark=" (it needs voc2007, too)",
        page=f"{VOC}/voc2012/",
        terms=VOC_TERMS,
        archives=(
            _voc(
                "VOCtrainval_11-May-2012.tar",
                year="2012",
                split="trainval",
                size=1_999_639_040,
                md5="6cd6e144f989b92b3379bac3b3de84fd",
            ),
        ),
    ),
    "coco2017": DataSource(
        title="COCO 2017, train and val",
        config="coco2017",
        page="https://cocodataset.org/#termsofuse",
        terms="the annotations are under CC BY 4.0; the images are from Flickr, and their use must respect Flickr's terms",
        archives=(
            Archive(
                f"{COCO}/annotations/annotations_trainval2017.zip",
                size=252_907_541,
                unpacked=850_000_000,
                take=(("annotations", "annotations"),),
                there=partial(
                    files_complete,
                    names=tuple(f"annotations/instances_{split}2017.json" for split in ("train", "val")),
                ),
            ),
            _coco_images("val2017", count=5_000, size=815_585_330),
            _coco_images("train2017", count=118_287, size=19_336_861_798),
        ),
    ),
    "bccd": DataSource(
        title="BCCD, blood cells",
        config="bccd",
        page="https://github.com/Shenggan/BCCD_Dataset",
        terms="MIT licence",
        archives=(
            Archive(
                f"https://codeload.github.com/Shenggan/BCCD_Dataset/zip/{BCCD_COMMIT}",
                size=10_000_000,
                unpacked=12_000_000,
                take=(
                    (f"BCCD_Dataset-{BCCD_COMMIT}/BCCD", ""),
                    (f"BCCD_Dataset-{BCCD_COMMIT}/LICENSE", "LICENSE"),
                ),
                there=partial(lists_complete, splits=("train", "val", "test")),
                file_name=f"BCCD_Dataset-{BCCD_COMMIT[:8]}.zip",
            ),
        ),
    ),
}
