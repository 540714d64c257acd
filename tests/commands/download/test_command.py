"""Whole downloads of miniature sets, from a server on the loopback address into the folders that the yaml files of conf/data name."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections import namedtuple
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.voc import DATASET_YEAR_DICT

from detectors.commands.download import command as verb
from detectors.commands.download import fetch as fetching
from detectors.commands.download import sources as table
from detectors.commands.download import unpack as unpacking
from detectors.commands.download.command import download, missing, root_of, space_needed
from detectors.commands.download.fetch import Part
from detectors.commands.download.sources import SOURCES
from detectors.config.check import check
from detectors.config.schema import composed
from detectors.training import assemble
from tests.commands.download.server import serving

XML = (
    "<annotation><size><width>40</width><height>30</height></size><object><name>{name}</name><difficult>0</difficult>"
    "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>25</ymax></bndbox></object></annotation>"
)
Usage = namedtuple("Usage", "total used free")


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(
        buffer, "JPEG"
    )
    return buffer.getvalue()


def voc_files(folder: str, lists: dict[str, list[str]], name: str) -> dict[str, bytes]:
    """A miniature of VOC's layout, with a folder that nothing of ours reads."""
    files = {f"{folder}/SegmentationClass/x.png": b"png"}
    for split, stems in lists.items():
        files[f"{folder}/ImageSets/Main/{split}.txt"] = "".join(f"{stem}\n" for stem in stems).encode()
        for number, stem in enumerate(stems):
            files[f"{folder}/JPEGImages/{stem}.jpg"] = jpeg(number)
            files[f"{folder}/Annotations/{stem}.xml"] = XML.format(name=name).encode()
    return files


def coco_files(split: str, ids: list[int]) -> tuple[dict[str, bytes], bytes]:
    """Images by name, and the instances file."""
    images = [{"id": number, "file_name": f"{number:012d}.jpg", "width": 40, "height": 30} for number in ids]
    truths = [
        {
            "id": number,
            "image_id": number,
            "category_id": 90,
            "bbox": [1, 2, 10, 20],
            "area": 99,
            "iscrowd": 0,
        }
        for number in ids
    ]
    content = {
        "images": images,
        "annotations": truths,
        "categories": [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}],
    }
    return {f"{split}/{image['file_name']}": jpeg(image["id"]) for image in images}, json.dumps(
        content
    ).encode()


def packed(name: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if name.endswith(".tar"):
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, content in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    else:
        with zipfile.ZipFile(buffer, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
    return buffer.getvalue()


def miniatures() -> dict[str, bytes]:
    """Archive name -> its bytes, laid out as the official ones are."""
    train, train_json = coco_files("train2017", [9, 25, 30])
    val, val_json = coco_files("val2017", [139, 285])
    annotations = {
        "annotations/instances_train2017.json": train_json,
        "annotations/instances_val2017.json": val_json,
    }
    bccd = f"BCCD_Dataset-{table.BCCD_COMMIT}"
    lists = {"train": ["b0", "b1"], "val": ["b2"], "test": ["b3"]}
    files = {
        "VOCtrainval_06-Nov-2007.tar": voc_files(
            "VOCdevkit/VOC2007", {"trainval": ["000005", "000007"]}, "dog"
        ),
        "VOCtest_06-Nov-2007.tar": voc_files("VOCdevkit/VOC2007", {"test": ["000001"]}, "cat"),
        "VOCtrainval_11-May-2012.tar": voc_files("VOCdevkit/VOC2012", {"trainval": ["2008_000002"]}, "sofa"),
        "annotations_trainval2017.zip": annotations,
        "train2017.zip": train,
        "val2017.zip": val,
        f"BCCD_Dataset-{table.BCCD_COMMIT[:8]}.zip": {
            **voc_files(f"{bccd}/BCCD", lists, "RBC"),
            f"{bccd}/LICENSE": b"MIT",
            f"{bccd}/x": b"",
        },
    }
    return {name: packed(name, content) for name, content in files.items()}


@pytest.fixture
def served(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE", 0.0)
    with serving() as server:
        server.files = miniatures()
        yield server


@pytest.fixture
def sources(served):
    """The table with the server's addresses, and the miniatures' checksums, sizes and numbers of images."""

    def moved(archive):
        content = served.files[archive.name]
        there = archive.there
        if there.func is table.images_complete:
            there = partial(
                there.func,
                folder=there.keywords["folder"],
                count=len(zipfile.ZipFile(io.BytesIO(content)).namelist()),
            )
        md5 = archive.md5 and hashlib.md5(content).hexdigest()
        return replace(
            archive,
            url=served.url(archive.name),
            size=len(content),
            unpacked=len(content),
            md5=md5,
            there=there,
        )

    return {
        name: replace(source, archives=tuple(map(moved, source.archives))) for name, source in SOURCES.items()
    }


@pytest.fixture
def get(sources, tmp_path, monkeypatch):
    """Downloads named sets below tmp_path, as the verb does with paths.data=tmp_path."""
    monkeypatch.delenv("DETECTORS_SHARED", raising=False)

    def run(*names, **options):
        chosen = {name: sources[name] for name in names}
        roots = {name: root_of(source, [f"paths.data={tmp_path}"]) for name, source in chosen.items()}
        download(chosen, roots, progress=False, **options)

    return run


def annotations_of(data: str, split: str, tmp_path):
    config = check(composed([f"data={data}", f"paths.data={tmp_path}", f"paths.cache={tmp_path}/cache"]))
    return assemble.read_annotations(config.data, split)


def ids_of(data: str, split: str, tmp_path) -> list:
    return list(annotations_of(data, split, tmp_path).image_ids)


def files_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_configurations_read_what_was_downloaded(get, tmp_path, capsys):
    get("voc2007", "voc2012", "coco2017", "bccd")
    assert ids_of("voc07", "train", tmp_path) == ["000005", "000007"]
    assert ids_of("voc07", "test", tmp_path) == ["000001"]
    assert ids_of("voc0712", "train", tmp_path) == ["000005", "000007", "2008_000002"]
    assert ids_of("voc0712plus", "train", tmp_path) == ["000005", "000007", "000001", "2008_000002"]
    assert ids_of("coco2017", "train", tmp_path) == [9, 25, 30]
    assert ids_of("coco2017", "val", tmp_path) == [139, 285]
    for split, ids in (("train", ["b0", "b1"]), ("val", ["b2"]), ("test", ["b3"])):
        assert ids_of("bccd", split, tmp_path) == ids
    for data, split in (("voc07", "train"), ("coco2017", "val")):
        assert all(os.path.isfile(path) for path in annotations_of(data, split, tmp_path).paths)
    assert (
        tmp_path / "VOCdevkit/VOC2007/SegmentationClass/x.png"
    ).is_file()  # the whole archive, for whoever needs it
    assert (tmp_path / "bccd/LICENSE").is_file()
    assert (
        not list(tmp_path.rglob("*.tar"))
        + list(tmp_path.rglob("*.zip"))
        + list(tmp_path.rglob(".*"))
        + list(tmp_path.rglob("*.part*"))
    )
    printed = capsys.readouterr().out
    assert printed.count("CC BY 4.0") == printed.count("MIT licence") == 1
    assert "https://cocodataset.org/#termsofuse" in printed


def test_a_second_call_asks_nobody(get, served, tmp_path, capsys):
    get("voc2007", "coco2017")
    before, asked = files_of(tmp_path), len(served.asked)
    capsys.readouterr()
    get("voc2007", "coco2017")
    assert len(served.asked) == asked
    assert files_of(tmp_path) == before
    assert (
        capsys.readouterr().out
        == "voc2007: all of it is there, nothing to do\ncoco2017: all of it is there, nothing to do\n"
    )


def test_archives_can_be_kept(get, served, tmp_path):
    get("voc2007", keep_archives=True)
    assert (tmp_path / "VOCdevkit/VOCtest_06-Nov-2007.tar").read_bytes() == served.files[
        "VOCtest_06-Nov-2007.tar"
    ]


def test_only_what_is_missing_is_fetched(get, served, tmp_path):
    """However it came there: whether a set is complete is read from its files."""
    get("voc2007", "coco2017")
    (tmp_path / "VOCdevkit/VOC2007/JPEGImages/000001.jpg").unlink()
    (tmp_path / "coco/val2017/000000000285.jpg").unlink()
    served.asked.clear()
    get("voc2007", "coco2017")
    assert served.asked == [("VOCtest_06-Nov-2007.tar", None), ("val2017.zip", None)]
    assert ids_of("coco2017", "val", tmp_path) == [139, 285]


def test_an_archive_that_lies_there_is_not_fetched(get, served, tmp_path):
    (tmp_path / "VOCdevkit").mkdir()
    for name in ("VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar"):
        (tmp_path / "VOCdevkit" / name).write_bytes(served.files[name])
    get("voc2007")
    assert served.asked == []
    assert len(annotations_of("voc07", "train", tmp_path)) == 2


def test_broken_connections_on_the_way(get, served, tmp_path):
    served.cuts = [1000, 2000, 3000]
    get("voc2007")
    assert served.asked[1:3] == [
        ("VOCtrainval_06-Nov-2007.tar", "bytes=1000-"),
        ("VOCtrainval_06-Nov-2007.tar", "bytes=3000-"),
    ]
    assert sum(served.sent) == sum(
        len(served.files[name]) for name in ("VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar")
    )


def test_a_wrong_checksum_removes_the_file_and_says_so(get, served, tmp_path):
    right = served.files["VOCtest_06-Nov-2007.tar"]
    served.files["VOCtest_06-Nov-2007.tar"] = right[:-1] + b"!"
    with pytest.raises(
        ValueError,
        match=r"VOCtest_06-Nov-2007\.tar: its MD5 checksum is \w{32}, and \w{32} was published; the file was removed",
    ):
        get("voc2007")
    assert not (tmp_path / "VOCdevkit/VOCtest_06-Nov-2007.tar").exists()
    assert not (tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/test.txt").exists()
    served.files["VOCtest_06-Nov-2007.tar"] = right
    served.asked.clear()
    get("voc2007")
    assert served.asked == [("VOCtest_06-Nov-2007.tar", None)]  # trainval was right


def test_a_zip_without_a_published_checksum_is_checked_by_its_own(get, served, tmp_path):
    content = bytearray(served.files["val2017.zip"])
    content[200] ^= 1  # within the first image
    served.files["val2017.zip"] = bytes(content)
    with pytest.raises(
        ValueError,
        match=r"val2017\.zip: Bad CRC-32 for file 'val2017/000000000139\.jpg'; the file was removed",
    ):
        get("coco2017")
    assert not (tmp_path / "coco/val2017").exists()


@pytest.mark.parametrize("moves", range(4))
def test_a_killed_unpacking_is_done_again(get, served, tmp_path, monkeypatch, moves):
    """After 0, 1, ... files of the test archive were moved to those of trainval."""
    get("voc2007")
    shutil.move(tmp_path / "VOCdevkit/VOC2007", tmp_path / "right")
    before, move, left = (
        files_of(tmp_path / "right"),
        shutil.move,
        [1 + moves],
    )  # trainval's folder is moved at once

    def killed(source, target):
        if not left[0]:
            raise KeyboardInterrupt  # as close to SIGKILL as a test in this process comes: nothing of ours catches it
        left[0] -= 1
        move(source, target)

    with monkeypatch.context() as until_killed:
        until_killed.setattr(unpacking.shutil, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            get("voc2007")
    served.asked.clear()
    get("voc2007")
    assert files_of(tmp_path / "VOCdevkit/VOC2007") == before
    assert served.asked == []  # the archive was still there
    assert [path.name for path in (tmp_path / "VOCdevkit").iterdir()] == ["VOC2007"]


def test_an_unpacking_that_was_cut_off_counts_as_missing_even_if_all_files_are_read(get, sources, tmp_path):
    """What nothing of ours reads may not have been moved yet."""
    get("voc2012")
    (tmp_path / "VOCdevkit/.unpacking-VOCtrainval_11-May-2012.tar").mkdir()
    assert missing(sources["voc2012"], tmp_path / "VOCdevkit") == list(sources["voc2012"].archives)


def test_space_is_asked_for_first(get, served, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 20_000, 20_000))
    with pytest.raises(
        ValueError,
        match=r"VOCdevkit and .*/coco: 0 MB are needed, and 0 MB are free; make room, or .*paths\.data=/FOLDER",
    ):
        get("voc2007", "coco2017")
    assert served.asked == []


def test_how_much_space(sources, tmp_path):
    """Archives of 10 and 100 that unpack to 20 and 200: 10 + 20, without the first archive 20, then 20 + 100 + 200."""
    first, second = (
        replace(sources["coco2017"].archives[0], size=size, unpacked=2 * size, file_name=f"{size}")
        for size in (10, 100)
    )
    assert space_needed([(tmp_path, first), (tmp_path, second)], False) == 320
    assert space_needed([(tmp_path, first), (tmp_path, second)], True) == 330
    (tmp_path / "100.part").write_bytes(b"x" * 30)
    (tmp_path / "100.part.json").write_text(
        json.dumps({"url": second.url, "size": 100, "etag": None, "modified": None})
    )
    assert Part(tmp_path / "100", second.url).have == 30
    assert space_needed([(tmp_path, first), (tmp_path, second)], False) == 290
    (tmp_path / "10").write_bytes(b"x" * 10)
    assert space_needed([(tmp_path, first)], False) == 20


def test_two_downloads_into_one_folder(get, tmp_path):
    with (
        verb.locked(tmp_path / "VOCdevkit"),
        pytest.raises(ValueError, match="another download into this folder is under way"),
    ):
        get("voc2007")
    get("voc2007")


def test_the_command(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verb, "SOURCES", sources)
    monkeypatch.delenv("DETECTORS_SHARED", raising=False)
    verb.main(["voc2012", "--keep-archives", f"paths.data={tmp_path}"])
    printed = capsys.readouterr().out
    assert (
        f"voc2012: in {tmp_path}/VOCdevkit; to use it: python train.py data=voc0712 paths.data={tmp_path} (it needs voc2007, too)"
        in printed
    )
    assert (tmp_path / "VOCdevkit/VOCtrainval_11-May-2012.tar").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["voc207"], "voc207: no data set of this name can be downloaded; did you mean voc2007?"),
        (["imagenet"], "there are: voc2007, voc2012, coco2017, bccd"),
        (["paths.data=/big"], "no data set is named; there are: voc2007"),
        (
            ["bccd", "data.root=/big"],
            "data.root=/big: only paths.* says where data sets lie; set paths.data=/FOLDER",
        ),
        (["bccd", "paths.dta=/big"], "paths.dta=/big: there is no such setting; did you mean paths.data?"),
        (
            ["bccd", "paths.shared=null", "paths.data=/proc/nowhere"],
            "/proc/nowhere/bccd: No such file or directory; name a folder",
        ),
    ],
)
def test_mistakes(arguments, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        verb.main(arguments)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def test_an_interrupted_command_says_how_to_go_on(sources, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "download", interrupted)
    with pytest.raises(SystemExit) as stopped:
        verb.main(["bccd", f"paths.data={tmp_path}"])
    assert stopped.value.code == 130
    assert "run the same command again: it goes on where it stopped" in capsys.readouterr().err


def test_bccd_goes_where_the_configuration_looks(monkeypatch):
    """Beside the others, unless a shared folder has it."""
    monkeypatch.delenv("DETECTORS_SHARED", raising=False)
    assert str(root_of(SOURCES["bccd"], ["paths.data=/big"])) == "/big/bccd"
    assert str(root_of(SOURCES["bccd"], ["paths.data=/big", "paths.shared=/s"])) == "/s/data/bccd"


@pytest.mark.data
def test_a_set_that_others_look_after_is_complete(shared):
    assert missing(SOURCES["bccd"], shared / "data" / "bccd") == []


def test_addresses_and_checksums_of_voc_are_torchvisions():
    ours = {
        archive.name: (archive.url, archive.md5)
        for name in ("voc2007", "voc2012")
        for archive in SOURCES[name].archives
    }
    theirs = {
        row["filename"]: (row["url"], row["md5"])
        for row in map(DATASET_YEAR_DICT.get, ("2007", "2007-test", "2012"))
    }
    assert ours == theirs


def test_what_has_no_checksum_of_its_own_is_a_zip():
    """A tar that ends early can pass for a short one; a zip's list of files stands at its end, with the CRC of each."""
    for source in SOURCES.values():
        assert all(archive.md5 or archive.name.endswith(".zip") for archive in source.archives)
        assert (verb.root_of(source, ["paths.data=/big", "paths.shared=null"])).parent.as_posix() == "/big"
