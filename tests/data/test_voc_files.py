"""Split lists as other programs write them, and XML files in the encodings that they declare."""

from __future__ import annotations

import pytest

from detectors.config.check import check
from detectors.config.composing import composed
from detectors.data.voc import read_voc, scan_voc
from detectors.data.voc_files import read_split_list
from detectors.training.ground_truth import read_annotations
from tests.data.files import box_xml, write_voc

LISTS = {  # content of a split list, stems of the images -> the names read
    "per class": ("000005 -1\n000007  1\n000009  0\n", {"000005", "000007"}, ["000005", "000007", "000009"]),
    "spaces in names": ("my img -1\r\nx\t1\r\n", {"my img"}, ["my img", "x"]),
    "names that end in a number": ("img 1\nimg 0\n", {"img 1", "img 0", "img"}, ["img 1", "img 0"]),
    "one that ends in a number": ("img 1\nb\n", {"img", "b"}, ["img 1", "b"]),
    "other numbers": ("a 2\nb -3\n", {"a", "b"}, ["a 2", "b -3"]),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_split_lists(tmp_path, name, encoding):
    """The list of one class names all images of the split: -1 marks those without such an object."""
    content, stems, expected = LISTS[name]
    (tmp_path / "a.txt").write_bytes(content.encode(encoding))
    assert read_split_list(tmp_path / "a.txt", stems) == expected


def test_the_list_of_one_class_gives_all_its_images(tmp_path):
    root = write_voc(tmp_path, {"a": box_xml("cat", 1, 1, 5, 5), "b": box_xml("dog", 1, 1, 5, 5)})
    (root / "ImageSets/Main/cat_train.txt").write_text("a  1\nb -1\n")
    annotations = read_voc(root=root, image_sets=["cat_train"])
    assert list(annotations.image_ids) == ["a", "b"] and annotations.class_names == ("cat", "dog")


ENCODINGS = {  # as declared -> a name that the encoding can write
    "GB2312": "安全帽",
    "gb2312": "安全帽",
    "GBK": "鎔",
    "gb18030": "㐀",
    "Shift_JIS": "ヘルメット",
    "EUC-JP": "ヘルメット",
    "ISO-2022-JP": "ヘルメット",
    "EUC-KR": "안전모",
    "Big5": "安全帽",
    "windows-1251": "каска",
    "ISO-8859-1": "vélo",
    "UTF-8": "안전모",
    "UTF-16": "안전모",
}


def xml(name: str, declared: str) -> str:
    return f'<?xml version="1.0" encoding="{declared}"?><annotation>{box_xml(name, 1, 1, 5, 5)}</annotation>'


@pytest.mark.parametrize("declared", ENCODINGS)
def test_xml_is_decoded_as_it_declares(tmp_path, declared):
    name = ENCODINGS[declared]
    root = write_voc(tmp_path, {"a": ""})
    (root / "Annotations/a.xml").write_bytes(xml(name, declared).encode(declared))
    assert read_voc(root=root, image_sets=["train"]).class_names == (name,)


@pytest.mark.parametrize(
    ("declared", "written", "name"),
    [
        ("gb2312", "gbk", "鎔"),
        ("Shift_JIS", "cp932", "①"),
        ("EUC-KR", "cp949", "똠"),
        ("GBK", "utf-8-sig", "安全帽"),
        ("utf-16", "utf-8", "안전모"),
    ],
)
def test_the_larger_set_that_programs_mean_and_wrong_declarations(tmp_path, declared, written, name):
    root = write_voc(tmp_path, {"a": ""})
    (root / "Annotations/a.xml").write_bytes(xml(name, declared).encode(written))
    assert read_voc(root=root, image_sets=["train"]).class_names == (name,)


@pytest.mark.parametrize(
    ("declared", "data", "what"),
    [
        (
            "GB2312",
            b"\xff\xff",
            "it is not GB2312 text, as it declares (illegal multibyte sequence at byte 65); save it as UTF-8",
        ),
        (
            "Shift_JIS",
            b"\x81",
            "it is not Shift_JIS text, as it declares (illegal multibyte sequence at byte 68); save it"
            " as UTF-8",
        ),
        ("klingon", b"a", "not well-formed XML (unknown encoding: klingon); save it as UTF-8"),
        ("hex", b"a", "not well-formed XML (unknown encoding: hex); save it as UTF-8"),
        (
            "UTF-8",
            "安".encode("gbk"),
            "it is not UTF-8 text, as it declares (invalid start byte at byte 64); save it as UTF-8",
        ),
        ("utf-8", b"</x>", "not well-formed XML (mismatched tag: line 1, column 66)"),
        ("GBK", "</x>安".encode("gbk"), "not well-formed XML (mismatched tag: line 1, column 64)"),
    ],
)
def test_xml_that_cannot_be_decoded_is_one_problem(tmp_path, declared, data, what):
    root = write_voc(tmp_path, {"a": "", "b": ""})
    (root / "Annotations/a.xml").write_bytes(xml("NAME", declared).encode().replace(b"NAME", data))
    annotations, (problem,) = scan_voc(root=root, image_sets=["train"])
    assert str(problem) == f"{root / 'Annotations/a.xml'}: {what}"
    assert problem.kind == "broken-annotation" and list(annotations.image_ids) == ["b"]


@pytest.mark.data
def test_the_reported_set_in_gb2312(shared):
    annotations = read_voc(root=shared / "bad-input/reported/voc-gb2312", image_sets=["train"])
    assert annotations.class_names == ("安全帽",) and annotations.labels.tolist() == [0, 0, 0]


def test_an_error_about_a_list_names_its_setting(tmp_path):
    """The settings that exist: data.train, not the reader's own parameters."""
    root = write_voc(tmp_path, {"a": ""})
    data = check(composed(["data=voc", f"data.root={root}", "data.train=[trian]"])).data
    with pytest.raises(FileNotFoundError) as caught:
        read_annotations(data, "train", ["cat"])
    message = "trian.txt: no such split list; did you mean 'train'? (there are: train) (data.train=['trian'])"
    assert str(caught.value) == f"{root}/ImageSets/Main/{message}"
    with pytest.raises(FileNotFoundError, match=r"; data\.val=\[\] trains without an evaluation$"):
        read_annotations(data, "val", ["cat"])
    data = check(composed(["data=coco", f"data.root={tmp_path}", "data.image_folders.train=no"])).data
    with pytest.raises(FileNotFoundError) as caught:
        read_annotations(data, "train", ["cat"])
    settings = "(data.train=['annotations/train.json'], data.image_folders.train=no)"
    assert str(caught.value) == f"{tmp_path}/annotations/train.json: no such annotation file {settings}"
