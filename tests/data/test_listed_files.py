"""Names in lists: those that lead out are refused unopened, special files too, and near names are shown."""

from __future__ import annotations

import json
import os
import socket
import unicodedata

import pytest
from PIL import Image

from detectors.commands.lint.findings import Split
from detectors.data.coco import scan_coco
from detectors.data.listed_files import ListedFolder, special_file
from detectors.data.voc import scan_voc
from tests.data.files import box_xml, write_coco, write_image, write_voc

SPECIAL = {"a FIFO": os.mkfifo, "a folder": os.mkdir, "a device": lambda path: path.symlink_to("/dev/zero")}
LEADING_OUT = [
    "../secret.jpg",
    "sub/../../secret.jpg",
    "./../secret.jpg",
    "/etc/passwd",
    "..",
    "../images2/a.jpg",
]


@pytest.fixture(autouse=True)
def nothing_outside_is_looked_at(monkeypatch):
    """Every file is looked at with os.stat before it is opened."""
    real = os.stat

    def guarded(path, **options):
        assert isinstance(path, int) or not os.fspath(path).endswith(("secret.jpg", "secret.xml", "passwd"))
        return real(path, **options)

    monkeypatch.setattr(os, "stat", guarded)


@pytest.mark.parametrize("name", LEADING_OUT)
def test_a_name_that_leads_out_of_cocos_folder_is_refused(tmp_path, name):
    content = {
        "images": [{"id": 1, "file_name": name}, {"id": 2, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 5, 5]} for n in (1, 2)],
    }
    files = write_coco(tmp_path, {**content, "images": content["images"][1:]})
    (tmp_path / "images/sub").mkdir()
    files["annotation_file"].write_text(json.dumps(content))
    annotations, (problem,) = scan_coco(**files)
    assert list(annotations.image_ids) == [2] and len(annotations.labels) == 1
    assert (problem.kind, problem.image) == ("outside-folder", "")
    assert problem.what.startswith(f"images[0]: the file_name {name!r} leads out of {tmp_path / 'images'}")


@pytest.mark.parametrize("name", ["../secret", "sub/../../secret", "/etc/passwd", "../Annotations/a"])
def test_a_name_that_leads_out_of_vocs_folder_is_refused(tmp_path, name):
    root = write_voc(tmp_path / "voc", {"a": box_xml("cat", 1, 1, 5, 5)})
    (root / "ImageSets/Main/train.txt").write_text(f"{name}\na\n")
    annotations, (problem,) = scan_voc(root=root, image_sets=["train"])
    assert list(annotations.image_ids) == ["a"]
    assert (problem.kind, problem.image) == ("outside-folder", "")
    assert problem.what.startswith(f"{name!r} leads out of {root / 'JPEGImages'}")


def test_links_and_names_that_stay_inside_are_read(tmp_path):
    """A user's own links lead anywhere; only the text of a name counts, and `..` is never followed."""
    write_image(tmp_path / "elsewhere/deep/b.jpg", (60, 80))
    write_image(tmp_path / "images/a.jpg", (60, 80))
    (tmp_path / "images/link.jpg").symlink_to(tmp_path / "elsewhere/deep/b.jpg")
    (tmp_path / "images/folder").symlink_to(tmp_path / "elsewhere/deep")
    listed = ListedFolder(tmp_path / "images", suffixes=True)
    images = str(tmp_path / "images")
    for name, path in {
        "a.jpg": f"{images}/a.jpg",
        "a.JPG": f"{images}/a.jpg",
        "./a.jpg": f"{images}/./a.jpg",
        "link.jpg": f"{images}/link.jpg",
        "folder/b.jpg": f"{images}/folder/b.jpg",
        "folder/../a.jpg": f"{images}/a.jpg",
        f"{images}/a.jpg": f"{images}/a.jpg",
    }.items():
        assert not listed.leads_out(name) and listed.find(name) == (path, True)
    assert listed.find("b.jpg") is None and listed.find("a\0.jpg") is None
    assert not ListedFolder(tmp_path / "images/", suffixes=True).leads_out("no.jpg")


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_are_refused_before_they_are_opened(tmp_path, kind):
    """Reading a FIFO would never end; the test would not, either."""
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [], "annotations": []}
    files = write_coco(tmp_path / "coco", content)
    root = write_voc(tmp_path / "voc", dict.fromkeys("ab", ""))
    images = [tmp_path / "coco/images/a.jpg", root / "JPEGImages/a.jpg"]
    for path in (*images, root / "Annotations/b.xml"):
        path.unlink()
        SPECIAL[kind](path)
    reason = f"it is {kind}, not a file"
    for path, problems in zip(
        images, (scan_coco(**files)[1], scan_voc(root=root, image_sets=["train"])[1]), strict=True
    ):
        assert str(problems[0]) == f"{path}: the image cannot be read ({reason})"
        assert problems[0].kind == "broken-image"
    assert str(problems[1]) == f"{root / 'Annotations/b.xml'}: cannot be read ({reason})"
    for path, read in {
        files["annotation_file"]: lambda: scan_coco(**files),
        root / "ImageSets/Main/train.txt": lambda: scan_voc(root=root, image_sets=["train"]),
    }.items():
        path.unlink()
        SPECIAL[kind](path)
        with pytest.raises(ValueError, match=rf"{path.name}: the .* cannot be read \({reason}\)"):
            read()


def test_a_socket_and_a_link_to_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    server = socket.socket(socket.AF_UNIX)
    server.bind("a.jpg")
    server.close()
    (tmp_path / "b.jpg").symlink_to("nothing")
    assert str(special_file("a.jpg")) == "a.jpg: the image cannot be read (it is a socket, not a file)"
    assert str(special_file("b.jpg")) == "b.jpg: it is a link to a file that is not there"


COCO_HINTS = {  # file_name -> the hint beside the files below
    "sub\\b.jpg": "; there is 'sub/b.jpg' (write / between folders, not a backslash)",
    "A.jpg": "; there is 'a.jpg' (other capitals)",
    "a.png": "; there is 'a.jpg' (another suffix)",
    "b.jpg": "; there is 'sub/b.jpg' (in a subfolder)",
    "train/a.jpg": "; there is 'a.jpg' (not in a subfolder)",
    "B.jpeg": "; there is 'sub/b.jpg' (in a subfolder, other capitals, another suffix)",
    unicodedata.normalize(
        "NFD", "é.jpg"
    ): "; there is 'é.jpg' (the same accents in another Unicode form, NFC or NFD)",
    "zzz.jpg": "",
}


@pytest.mark.parametrize("name", COCO_HINTS)
def test_near_names_of_cocos_images(tmp_path, name):
    content = {"images": [{"id": 1, "file_name": name}], "categories": [], "annotations": []}
    files = write_coco(tmp_path, {"images": []})
    for file in ("a.jpg", "sub/b.jpg", "é.jpg"):
        write_image(tmp_path / "images" / file, (6, 8))
    files["annotation_file"].write_text(json.dumps(content))
    (problem,) = scan_coco(**files)[1]
    assert problem.kind == "missing-image"
    assert (
        str(problem)
        == f"{tmp_path / 'images' / name}: listed in {files['annotation_file']}{COCO_HINTS[name]}"
    )


VOC_HINTS = {  # a line of the split list -> the problem's file and hint
    "a.jpg": ("a.jpg.jpg", "; there is 'a.jpg' (this list has names without suffixes)"),
    "JPEGImages/a.jpg": (
        "JPEGImages/a.jpg.jpg",
        "; there is 'a.jpg' (not in a subfolder, this list has names without suffixes)",
    ),
    "A": ("A.jpg", "; there is 'a.jpg' (other capitals)"),
    "b": ("b.jpg", "; there is 'sub/b.png' (in a subfolder)"),
    "w": ("w.jpg", "; there is 'w.webp' (a kind of file that is not read)"),
    "z.1": ("z.1.jpg", ""),
}


@pytest.mark.parametrize("name", VOC_HINTS)
def test_near_names_of_vocs_images(tmp_path, name):
    root = write_voc(tmp_path, {"a": ""})
    write_image(root / "JPEGImages/sub/b.png", (6, 8))
    (root / "JPEGImages/w.webp").write_bytes(b"RIFF")
    (root / "ImageSets/Main/train.txt").write_text(f"{name}\na\n")
    (problem,) = scan_voc(root=root, image_sets=["train"])[1]
    file, hint = VOC_HINTS[name]
    assert str(problem) == f"{root / 'JPEGImages' / file}: listed in {root}/ImageSets/Main/train.txt{hint}"


def test_annotations_with_another_name(tmp_path):
    """The suffix may be .XML; other capitals of the stem are a hint."""
    root = write_voc(tmp_path, dict.fromkeys("ab", box_xml("cat", 1, 1, 5, 5)))
    (root / "Annotations/a.xml").rename(root / "Annotations/a.XML")
    (root / "Annotations/b.xml").rename(root / "Annotations/B.xml")
    annotations, (problem,) = scan_voc(root=root, image_sets=["train"])
    assert list(annotations.image_ids) == ["a"]
    what = f"{root}/ImageSets/Main/train.txt lists b; there is 'B.xml' (other capitals)"
    assert str(problem) == f"{root / 'Annotations/b.xml'}: {what}"
    assert Split("train", annotations, []).annotation_file(0) == str(root / "Annotations/a.XML")


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".TIFF"])
def test_bmp_and_tiff_are_images_of_a_data_set(tmp_path, suffix):
    root = write_voc(tmp_path, {"a": box_xml("cat", 1, 1, 5, 5)}, size_xml="")
    (root / "JPEGImages/a.jpg").unlink()
    write_image(root / "JPEGImages/b.png", (60, 80))
    Image.open(root / "JPEGImages/b.png").save(root / f"JPEGImages/a{suffix}")
    annotations, problems = scan_voc(root=root, image_sets=["train"])
    assert not problems and annotations.sizes.tolist() == [[60, 80]]
    assert annotations.paths[0].endswith(f"a{suffix}")
