"""The data sets that can be downloaded: their archives, the contents, and how to tell that a set is complete.

Sizes are the servers' and are used to check disk space only. VOC's checksums are torchvision's, which a test
verifies. COCO publishes no checksums, and GitHub builds BCCD's archive on request: for these two, unpacking
verifies the CRC of each file in the zip.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from detectors.data.text_files import read_text

VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
COCO = "http://images.cocodataset.org"  # no https: the certificate is for another host name
BCCD_COMMIT = "d272fb14cdff6e473fafeeeba32aba5f560e9e43"


@dataclass(frozen=True)
class Archive:
    """A .tar or .zip file, and where its contents belong below the root of the data set."""

    url: str
    size: int  # bytes
    unpacked: int  # bytes on disk, rounded up
    contents: tuple[tuple[str, str], ...]  # (path in the archive, path below root); the rest is dropped
    is_complete: Callable[[Path], bool]  # root -> whether all files that `data=...` reads are there
    md5: str | None = None  # None: not published
    file_name: str = ""  # local file name; "": the last part of the URL

    @property
    def name(self) -> str:
        return self.file_name or self.url.rpartition("/")[2]


@dataclass(frozen=True)
class DataSource:
    """A data set."""

    title: str
    config: str  # name of the yaml file in conf/data whose data.root is the target folder
    page: str  # URL
    terms: str  # of use
    archives: tuple[Archive, ...]
    remark: str = ""  # what else the yaml file needs


def lists_complete(root: Path, *, year: str = "", splits: tuple[str, ...]) -> bool:
    """Whether root/year has VOC's split lists and, for each name in them, an image and an annotation."""
    folder = root / year
    lists = [folder / "ImageSets" / "Main" / f"{split}.txt" for split in splits]
    if not all(path.is_file() for path in lists):
        return False
    names = {name for path in lists for name in read_text(path, what="split list").split()}
    return bool(names) and all(names <= _stems(folder / part) for part in ("JPEGImages", "Annotations"))


def images_complete(root: Path, *, folder: str, count: int) -> bool:
    """Whether root/folder holds at least `count` files."""
    return len(_stems(root / folder)) >= count


def files_complete(root: Path, *, names: tuple[str, ...]) -> bool:
    return all((root / name).is_file() for name in names)


def _stems(folder: Path) -> set[str]:
    """File names without suffix; empty if there is no such folder."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {os.path.splitext(entry.name)[0] for entry in entries}


def _voc(file: str, *, year: str, split: str, size: int, md5: str) -> Archive:
    return Archive(
        url=f"{VOC}/voc{year}/{file}",
        size=size,
        unpacked=size * 11 // 10,
        contents=((f"VOCdevkit/VOC{year}", f"VOC{year}"),),
        is_complete=partial(lists_complete, year=f"VOC{year}", splits=(split,)),
        md5=md5,
    )


def _coco_images(split: str, *, count: int, size: int) -> Archive:
    return Archive(
        url=f"{COCO}/zips/{split}.zip",
        size=size,
        unpacked=size * 105 // 100,
        contents=((split, split),),
        is_complete=partial(images_complete, folder=split, count=count),
    )


FLICKR_TERMS = "the images are from Flickr; use them according to Flickr's terms"

SOURCES = {
    "voc2007": DataSource(
        title="PASCAL VOC 2007, trainval and test",
        config="voc07",
        page=f"{VOC}/voc2007/",
        terms=FLICKR_TERMS,
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
        remark=" (needs voc2007, too)",
        page=f"{VOC}/voc2012/",
        terms=FLICKR_TERMS,
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
        terms=f"the annotations are under CC BY 4.0; {FLICKR_TERMS}",
        archives=(
            Archive(
                url=f"{COCO}/annotations/annotations_trainval2017.zip",
                size=252_907_541,
                unpacked=850_000_000,
                contents=(("annotations", "annotations"),),
                is_complete=partial(
                    files_complete,
                    names=("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
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
                url=f"https://codeload.github.com/Shenggan/BCCD_Dataset/zip/{BCCD_COMMIT}",
                size=10_000_000,
                unpacked=12_000_000,
                contents=(
                    (f"BCCD_Dataset-{BCCD_COMMIT}/BCCD", ""),
                    (f"BCCD_Dataset-{BCCD_COMMIT}/LICENSE", "LICENSE"),
                ),
                is_complete=partial(lists_complete, splits=("train", "val", "test")),
                file_name=f"BCCD_Dataset-{BCCD_COMMIT[:8]}.zip",
            ),
        ),
    ),
}
