"""detectors download with miniature data sets on a local server: from there to the folders of conf/data."""

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

from detectors.commands.download import command
from detectors.commands.download import fetch as fetching
from detectors.commands.download import sources as source_table
from detectors.commands.download import unpack as unpacking
from detectors.commands.download.command import download, missing_archives, root_of, space_needed
from detectors.commands.download.fetch import Part
from detectors.commands.download.sources import SOURCES
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.training import ground_truth
from tests.commands.download.server import local_server

XML = (
    "<annotation><size><width>40</width><height>30</height></size><object><name>{name}</name><difficult>0</difficult>"
    "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>25</ymax></bndbox></object></annotation>"
)
Usage = namedtuple("Usage", "total used free")


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def voc_files(folder: str, lists: dict[str, list[str]], name: str) -> dict[str, bytes]:
    """Path -> content of a miniature set in VOC's layout, with a folder that this project does not read."""
    files = {f"{folder}/SegmentationClass/x.png": b"png"}
    for split, stems in lists.items():
        files[f"{folder}/ImageSets/Main/{split}.txt"] = "".join(f"{stem}\n" for stem in stems).encode()
        for number, stem in enumerate(stems):
            files[f"{folder}/JPEGImages/{stem}.jpg"] = jpeg(number)
            files[f"{folder}/Annotations/{stem}.xml"] = XML.format(name=name).encode()
    return files


def coco_files(split: str, ids: list[int]) -> tuple[dict[str, bytes], bytes]:
    """Path -> content of the images, and the content of the instances file."""
    images = [{"id": number, "file_name": f"{number:012d}.jpg", "width": 40, "height": 30} for number in ids]
    box = {"category_id": 90, "bbox": [1, 2, 10, 20], "area": 99, "iscrowd": 0}
    instances = {
        "images": images,
        "annotations": [{"id": number, "image_id": number, **box} for number in ids],
        "categories": [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}],
    }
    image_files = {f"{split}/{image['file_name']}": jpeg(image["id"]) for image in images}
    return image_files, json.dumps(instances).encode()


def pack(name: str, files: dict[str, bytes]) -> bytes:
    """The bytes of a tar or zip, by the suffix of `name`."""
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
    """Archive name -> its bytes, laid out like the official archives."""
    train, train_json = coco_files("train2017", [9, 25, 30])
    val, val_json = coco_files("val2017", [139, 285])
    annotations = {
        "annotations/instances_train2017.json": train_json,
        "annotations/instances_val2017.json": val_json,
    }
    bccd = f"BCCD_Dataset-{source_table.BCCD_COMMIT}"
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
        f"BCCD_Dataset-{source_table.BCCD_COMMIT[:8]}.zip": {
            **voc_files(f"{bccd}/BCCD", lists, "RBC"),
            f"{bccd}/LICENSE": b"MIT",
            f"{bccd}/x": b"",
        },
    }
    return {name: pack(name, content) for name, content in files.items()}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE", 0.0)
    with local_server() as server:
        server.files = miniatures()
        yield server


@pytest.fixture
def sources(server):
    """SOURCES with the local server's URLs, and the miniatures' checksums, sizes and numbers of images."""

    def on_server(archive):
        content = server.files[archive.name]
        is_complete = archive.is_complete
        if is_complete.func is source_table.images_complete:
            count = len(zipfile.ZipFile(io.BytesIO(content)).namelist())
            is_complete = partial(is_complete.func, folder=is_complete.keywords["folder"], count=count)
        return replace(
            archive,
            url=server.url(archive.name),
            size=len(content),
            unpacked=len(content),
            md5=archive.md5 and hashlib.md5(content).hexdigest(),
            is_complete=is_complete,
        )

    return {
        name: replace(source, archives=tuple(map(on_server, source.archives)))
        for name, source in SOURCES.items()
    }


@pytest.fixture
def get(sources, tmp_path, monkeypatch):
    """Downloads the named sets, as the command does with paths.data=tmp_path."""
    monkeypatch.delenv("DETECTORS_SHARED", raising=False)

    def run(*names, **options):
        selected = {name: sources[name] for name in names}
        roots = {name: root_of(source, [f"paths.data={tmp_path}"]) for name, source in selected.items()}
        download(selected, roots, progress=False, **options)

    return run


def annotations_of(data: str, split: str, tmp_path):
    config = check(composed([f"data={data}", f"paths.data={tmp_path}", f"paths.cache={tmp_path}/cache"]))
    return ground_truth.read_annotations(config.data, split)


def ids_of(data: str, split: str, tmp_path) -> list:
    return list(annotations_of(data, split, tmp_path).image_ids)


def files_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_configurations_find_the_downloaded_sets(get, tmp_path, capsys):
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
    assert (tmp_path / "VOCdevkit/VOC2007/SegmentationClass/x.png").is_file()  # VOC is unpacked completely
    assert (tmp_path / "bccd/LICENSE").is_file()
    for pattern in ("*.tar", "*.zip", ".*", "*.part*"):
        assert list(tmp_path.rglob(pattern)) == []
    printed = capsys.readouterr().out
    assert printed.count("CC BY 4.0") == printed.count("MIT licence") == 1
    assert "https://cocodataset.org/#termsofuse" in printed


def test_a_second_call_sends_no_requests(get, server, tmp_path, capsys):
    get("voc2007", "coco2017")
    before = files_of(tmp_path)
    capsys.readouterr()
    server.requests.clear()
    get("voc2007", "coco2017")
    assert server.requests == []
    assert files_of(tmp_path) == before
    assert capsys.readouterr().out.splitlines() == [
        "voc2007: already complete, nothing to do",
        "coco2017: already complete, nothing to do",
    ]


def test_archives_can_be_kept(get, server, tmp_path):
    get("voc2007", keep_archives=True)
    kept = tmp_path / "VOCdevkit/VOCtest_06-Nov-2007.tar"
    assert kept.read_bytes() == server.files["VOCtest_06-Nov-2007.tar"]


def test_only_missing_archives_are_fetched(get, server, tmp_path):
    """Whether an archive is missing depends on the unpacked files."""
    get("voc2007", "coco2017")
    (tmp_path / "VOCdevkit/VOC2007/JPEGImages/000001.jpg").unlink()
    (tmp_path / "coco/val2017/000000000285.jpg").unlink()
    server.requests.clear()
    get("voc2007", "coco2017")
    assert server.requests == [("VOCtest_06-Nov-2007.tar", None), ("val2017.zip", None)]
    assert ids_of("coco2017", "val", tmp_path) == [139, 285]


def test_an_archive_in_the_folder_is_not_fetched(get, server, tmp_path):
    (tmp_path / "VOCdevkit").mkdir()
    for name in ("VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar"):
        (tmp_path / "VOCdevkit" / name).write_bytes(server.files[name])
    get("voc2007")
    assert server.requests == []
    assert len(annotations_of("voc07", "train", tmp_path)) == 2


def test_broken_connections_are_resumed(get, server, tmp_path):
    server.cuts = [1000, 2000, 3000]
    get("voc2007")
    assert server.requests[1:3] == [
        ("VOCtrainval_06-Nov-2007.tar", "bytes=1000-"),
        ("VOCtrainval_06-Nov-2007.tar", "bytes=3000-"),
    ]
    names = ("VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar")
    assert sum(server.sent) == sum(len(server.files[name]) for name in names)


def test_a_file_with_a_wrong_checksum_is_removed_and_reported(get, server, tmp_path):
    content = server.files["VOCtest_06-Nov-2007.tar"]
    server.files["VOCtest_06-Nov-2007.tar"] = content[:-1] + b"!"
    checksums = r"its MD5 checksum is \w{32}, the published one is \w{32}"
    with pytest.raises(ValueError, match=rf"VOCtest_06-Nov-2007\.tar: {checksums}; the file was removed"):
        get("voc2007")
    assert not (tmp_path / "VOCdevkit/VOCtest_06-Nov-2007.tar").exists()
    assert not (tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/test.txt").exists()
    server.files["VOCtest_06-Nov-2007.tar"] = content
    server.requests.clear()
    get("voc2007")
    assert server.requests == [("VOCtest_06-Nov-2007.tar", None)]  # trainval is complete


def test_a_zip_without_a_published_checksum_is_verified_by_its_crc(get, server, tmp_path):
    content = bytearray(server.files["val2017.zip"])
    content[200] ^= 1  # a byte of the first image
    server.files["val2017.zip"] = bytes(content)
    with pytest.raises(
        ValueError,
        match=r"val2017\.zip: Bad CRC-32 for file 'val2017/000000000139\.jpg'; the file was removed",
    ):
        get("coco2017")
    assert not (tmp_path / "coco/val2017").exists()


@pytest.mark.parametrize("moves", range(4))
def test_interrupted_unpacking_is_repeated(get, server, tmp_path, monkeypatch, moves):
    """Interrupted after `moves` files of the test archive were merged into the folder of trainval."""
    get("voc2007")
    shutil.move(tmp_path / "VOCdevkit/VOC2007", tmp_path / "expected")
    expected = files_of(tmp_path / "expected")
    move = shutil.move
    allowed_moves = [None] * (1 + moves)  # one for the whole folder of trainval

    def interrupted_move(source, target):
        if not allowed_moves:
            raise KeyboardInterrupt  # stands for SIGKILL: unpack() does not catch it
        allowed_moves.pop()
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(unpacking.shutil, "move", interrupted_move)
        with pytest.raises(KeyboardInterrupt):
            get("voc2007")
    server.requests.clear()
    get("voc2007")
    assert files_of(tmp_path / "VOCdevkit/VOC2007") == expected
    assert server.requests == []  # the archive was kept
    assert [path.name for path in (tmp_path / "VOCdevkit").iterdir()] == ["VOC2007"]


def test_an_archive_with_a_draft_counts_as_missing(get, sources, tmp_path):
    """Even if all files that training reads are there: others may not have been moved yet."""
    get("voc2012")
    (tmp_path / "VOCdevkit/.unpacking-VOCtrainval_11-May-2012.tar").mkdir()
    assert missing_archives(sources["voc2012"], tmp_path / "VOCdevkit") == list(sources["voc2012"].archives)


def test_disk_space_is_checked_before_the_first_request(get, server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 20_000, 20_000))
    with pytest.raises(
        ValueError,
        match=r"VOCdevkit and .*/coco: 0 MB needed, 0 MB free; make room, or .*paths\.data=/FOLDER",
    ):
        get("voc2007", "coco2017")
    assert server.requests == []


def test_space_needed(sources, tmp_path):
    """Archives of 10 and 100 bytes unpack to 20 and 200: the first leaves 20, then come 100 + 200."""
    first, second = (
        replace(sources["coco2017"].archives[0], size=size, unpacked=2 * size, file_name=f"{size}")
        for size in (10, 100)
    )
    assert space_needed([(tmp_path, first), (tmp_path, second)], False) == 320
    assert space_needed([(tmp_path, first), (tmp_path, second)], True) == 330
    (tmp_path / "100.part").write_bytes(b"x" * 30)
    note = {"url": second.url, "size": 100, "etag": None, "modified": None}
    (tmp_path / "100.part.json").write_text(json.dumps(note))
    assert Part(tmp_path / "100", second.url).bytes_on_disk == 30
    assert space_needed([(tmp_path, first), (tmp_path, second)], False) == 290
    (tmp_path / "10").write_bytes(b"x" * 10)
    assert space_needed([(tmp_path, first)], False) == 20


def test_two_downloads_into_one_folder(get, tmp_path):
    with (
        command.locked(tmp_path / "VOCdevkit"),
        pytest.raises(ValueError, match="another download into this folder is running"),
    ):
        get("voc2007")
    get("voc2007")


def test_the_command(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "SOURCES", sources)
    monkeypatch.delenv("DETECTORS_SHARED", raising=False)
    command.main(["voc2012", "--keep-archives", f"paths.data={tmp_path}"])
    printed = capsys.readouterr().out
    hint = f"to use it: python train.py data=voc0712 paths.data={tmp_path} (needs voc2007, too)"
    assert f"voc2012: in {tmp_path}/VOCdevkit; {hint}" in printed
    assert (tmp_path / "VOCdevkit/VOCtrainval_11-May-2012.tar").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["voc207"], "voc207: not a data set that can be downloaded; did you mean voc2007?"),
        (["imagenet"], "there are: voc2007, voc2012, coco2017, bccd"),
        (["paths.data=/big"], "name a data set to download; there are: voc2007"),
        (
            ["bccd", "data.root=/big"],
            "data.root=/big: only paths.* settings are allowed here; set paths.data=/FOLDER",
        ),
        (["bccd", "paths.dta=/big"], "paths.dta=/big: there is no such setting; did you mean paths.data?"),
        (
            ["bccd", "paths.shared=null", "paths.data=/proc/nowhere"],
            "/proc/nowhere/bccd: No such file or directory; set paths.data=/FOLDER to a writable folder",
        ),
    ],
)
def test_user_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_an_interrupted_command_says_how_to_resume(sources, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "download", interrupt)
    with pytest.raises(SystemExit) as stop:
        command.main(["bccd", f"paths.data={tmp_path}"])
    assert stop.value.code == 130
    assert "run the same command again to resume where it stopped" in capsys.readouterr().err


def test_bccd_goes_where_the_configuration_looks(monkeypatch):
    """Beside the other sets, or in the shared folder if paths.shared is set."""
    monkeypatch.delenv("DETECTORS_SHARED", raising=False)
    assert str(root_of(SOURCES["bccd"], ["paths.data=/big"])) == "/big/bccd"
    assert str(root_of(SOURCES["bccd"], ["paths.data=/big", "paths.shared=/s"])) == "/s/data/bccd"


@pytest.mark.data
def test_the_shared_bccd_is_complete(shared):
    assert missing_archives(SOURCES["bccd"], shared / "data" / "bccd") == []


def test_urls_and_checksums_of_voc_equal_torchvisions():
    ours = {
        archive.name: (archive.url, archive.md5)
        for name in ("voc2007", "voc2012")
        for archive in SOURCES[name].archives
    }
    torchvisions = {
        row["filename"]: (row["url"], row["md5"])
        for row in map(DATASET_YEAR_DICT.get, ("2007", "2007-test", "2012"))
    }
    assert ours == torchvisions


def test_archives_without_a_checksum_are_zips():
    """A truncated tar can pass for a shorter one. A zip ends with the list of its files and their CRCs."""
    for source in SOURCES.values():
        assert all(archive.md5 or archive.name.endswith(".zip") for archive in source.archives)


def test_all_sets_are_placed_in_the_data_folder():
    for source in SOURCES.values():
        assert root_of(source, ["paths.data=/big", "paths.shared=null"]).parent.as_posix() == "/big"
