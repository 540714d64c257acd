"""For any content of the files, the readers report problems or raise known errors, and return valid boxes."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detectors.annotations import Annotations
from detectors.data.coco import scan_coco
from detectors.data.darknet_labels import scan_darknet
from detectors.data.problems import KINDS
from detectors.data.voc import scan_voc
from tests.data.files import box_xml, write_darknet, write_image, write_voc

FEW = settings(max_examples=60, deadline=5000, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=1500, deadline=5000, suppress_health_check=list(HealthCheck))
NUMBERS = st.one_of(
    st.integers(-10, 200),
    st.floats(),
    st.sampled_from([1e308, -1e308, 2**31, 2**63, 2**64, 10**30, 2**20, 2**20 + 1, 5e-324, 0.1, -0.0]),
)


def assert_valid(scanned: tuple[Annotations, list], images: int) -> None:
    """Boxes are finite with an area, in float32 too; array lengths match; problems are of known kinds."""
    annotations, problems = scanned
    count = len(annotations.labels)
    for dtype in (np.float64, np.float32):
        boxes = annotations.boxes_original.astype(dtype)
        assert np.isfinite(boxes).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    for name in ("boxes_original", "areas", "difficult", "crowd"):
        assert len(getattr(annotations, name)) == count
    assert annotations.offsets[-1] == count
    assert len(annotations) == len(annotations.paths) == len(annotations.sizes)
    assert len(annotations) == len(annotations.offsets) - 1 <= images
    assert (np.diff(annotations.offsets) >= 0).all()
    assert np.isfinite(annotations.areas).all() and (annotations.areas >= 0).all()
    assert (annotations.sizes > 0).all() and (annotations.sizes < 2**31).all()
    assert count == 0 or (
        annotations.labels.min() >= 0 and annotations.labels.max() < len(annotations.class_names)
    )
    assert len(annotations.class_names) == len(annotations.category_ids) == len(set(annotations.category_ids))
    assert all(KINDS[problem.kind].error and str(problem) for problem in problems)
    assert all(problem.box is None or np.isfinite(problem.box).all() for problem in problems)


# --- VOC ---
TAGS = st.sampled_from(
    [
        "object",
        "name",
        "bndbox",
        "xmin",
        "ymin",
        "xmax",
        "ymax",
        "difficult",
        "part",
        "size",
        "width",
        "height",
        "x",
    ]
)
TEXTS = st.one_of(
    NUMBERS.map(repr),
    st.sampled_from(["cat", "dog", " ", "", "\uff11\uff12", "1_0", "0x10", "nan", "-inf", "1e400", "1,5"]),
    st.text(max_size=6),
)
ELEMENTS = st.recursive(
    st.tuples(TAGS, TEXTS.map(lambda text: [text])),
    lambda inner: st.tuples(TAGS, st.lists(inner, max_size=5)),
    max_leaves=25,
)


def as_xml(element) -> str:
    if isinstance(element, str):
        return element
    tag, children = element
    return f"<{tag}>{''.join(map(as_xml, children))}</{tag}>"


@st.composite
def annotations_xml(draw) -> bytes:
    """Valid files with strange numbers; known tags in wrong places; changed, truncated or random bytes."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.binary(max_size=60))
    names = st.sampled_from(["cat", "dog", "hrose", "", "a&amp;b"])
    if kind == 1:
        text = as_xml(("annotation", draw(st.lists(ELEMENTS, max_size=6))))
    else:
        objects = [
            box_xml(draw(names), *(draw(NUMBERS) for _ in range(4))) for _ in range(draw(st.integers(0, 4)))
        ]
        size = f"<size><width>{draw(NUMBERS)}</width><height>{draw(NUMBERS)}</height></size>"
        text = f"<annotation>{size}{''.join(objects)}</annotation>"
    content = bytearray(text.encode("utf-8", "replace"))
    for _ in range(draw(st.integers(0, 3)) if kind == 3 else 0):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    if kind == 3 and draw(st.booleans()):
        content = content[: draw(st.integers(0, len(content)))]
    return bytes(content)


@pytest.fixture(scope="module")
def voc() -> Path:
    with tempfile.TemporaryDirectory() as folder:
        yield write_voc(Path(folder), {"good": box_xml("cat", 2, 3, 5, 5), "a": ""}, size=(33, 47))


def check_xml(voc: Path, content: bytes, class_names: list[str] | None) -> None:
    (voc / "Annotations/a.xml").write_bytes(content)
    annotations, problems = scan_voc(root=voc, image_sets=["train"], class_names=class_names)
    assert_valid((annotations, problems), 2)
    assert annotations.boxes_original[0].tolist() == [1, 2, 5, 5]  # the box of the other file is never lost


def check_split(voc: Path, content: bytes) -> None:
    (voc / "Annotations/a.xml").write_text("<annotation/>")
    (voc / "ImageSets/Main/fuzz.txt").write_bytes(content)
    try:
        assert_valid(scan_voc(root=voc, image_sets=["fuzz"]), 2)
    except ValueError as error:
        if not any(text in str(error) for text in SPLIT_ERRORS):
            raise


SPLIT_ERRORS = ("the split list is ", "the split list contains zero bytes", "listed more than once")
CLASSES = st.sampled_from([None, ["cat"], ["horse", "cat", "dog"]])
LISTS = st.one_of(
    st.binary(max_size=30),
    st.lists(st.sampled_from(["a", "good", "a.b", "../a", "", "x" * 300, "ü", "\0"])).map(
        lambda names: "\n".join(names).encode()
    ),
)


@FEW
@given(content=annotations_xml(), names=CLASSES)
def test_xml(voc, content, names):
    check_xml(voc, content, names)


@FEW
@given(content=LISTS)
def test_split_lists(voc, content):
    check_split(voc, content)


@pytest.mark.slow
@MANY
@given(content=annotations_xml(), names=CLASSES)
def test_xml_with_many_examples(voc, content, names):
    check_xml(voc, content, names)


@pytest.mark.slow
@settings(MANY, max_examples=400)
@given(content=LISTS)
def test_split_lists_with_many_examples(voc, content):
    check_split(voc, content)


def billion_laughs() -> str:
    """Entities that refer to each other and expand to 25 TB."""
    entities = f'<!ENTITY b "{"x" * 1000}"><!ENTITY b0 "&b;">'
    for number in range(1, 9):
        entities += f'<!ENTITY b{number} "{f"&b{number - 1};" * 20}">'
    return f"<!DOCTYPE a [{entities}]><a>&b8;</a>"


@pytest.mark.parametrize(
    "text",
    [
        "<a>" * 100000 + "</a>" * 100000,
        "<a><object>" + "<name>" * 50000 + "</name>" * 50000 + "</object></a>",
        billion_laughs(),
    ],
    ids=["deep", "deep name", "billion laughs"],
)
def test_malicious_xml(voc, text):
    check_xml(voc, text.encode(), ["cat"])


# --- COCO ---
SCALARS = st.one_of(
    NUMBERS,
    st.none(),
    st.booleans(),
    st.sampled_from(["", "1", "a.jpg", "cat", "\0", "../a.jpg", "x" * 300, "\ud800"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["id", "name"]), inner),
    max_leaves=8,
)
IDS = st.one_of(st.integers(0, 4), VALUES)
FILES = st.one_of(st.sampled_from(["a.jpg", "b.jpg", "c.jpg"]), VALUES)


def entries(**values: st.SearchStrategy) -> st.SearchStrategy:
    """Lists of objects with all or some of the keys, and of other values."""
    some_keys = st.fixed_dictionaries({}, optional=values)
    entry = st.one_of(st.fixed_dictionaries(values), some_keys, VALUES)
    return st.one_of(st.lists(entry, max_size=5), VALUES)


FOUR = st.lists(NUMBERS, min_size=4, max_size=4)
BOXES = st.one_of(FOUR, VALUES)
LOOSE = st.one_of(
    st.fixed_dictionaries(
        {
            "images": entries(id=IDS, file_name=FILES, height=NUMBERS, width=VALUES),
            "categories": entries(id=IDS, name=st.one_of(st.sampled_from(["cat", "dog"]), VALUES)),
            "annotations": entries(
                id=IDS, image_id=IDS, category_id=IDS, bbox=BOXES, area=VALUES, iscrowd=VALUES
            ),
        }
    ),
    VALUES,
)
GOOD = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg", "height": 33, "width": 47}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 4, "name": "dog"}],
    "annotations": [
        {
            "id": number,
            "image_id": 1 + number % 2,
            "category_id": 1,
            "bbox": [1, 2, 3, 4],
            "area": 9,
            "iscrowd": 0,
        }
        for number in range(4)
    ],
}


@st.composite
def nearly_good(draw) -> dict:
    """A valid file with strange numbers, in which up to four values are replaced."""
    content = copy.deepcopy(GOOD)
    for annotation in content["annotations"]:
        annotation["bbox"] = draw(FOUR)
    for _ in range(draw(st.integers(0, 4))):
        part = content[draw(st.sampled_from(sorted(GOOD)))]
        entry = part[draw(st.integers(0, len(part) - 1))]
        key = draw(st.sampled_from(sorted(entry)))
        entry[key] = draw(VALUES)
    return content


CONTENT = st.one_of(nearly_good(), LOOSE)
JSON_ERRORS = (
    "not valid JSON",
    "the annotation file is not UTF",
    "contains zero bytes",
    "no list of ",
    "lists no image",
    "no category 'cat'",
)


@pytest.fixture(scope="module")
def coco() -> Path:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.jpg", "b.jpg"):
            write_image(Path(folder) / "images" / name, (33, 47))
        (Path(folder) / "images/c.jpg").write_bytes(b"no image")
        yield Path(folder)


def check_json(coco: Path, content: bytes, class_names: list[str] | None) -> None:
    (coco / "instances.json").write_bytes(content)
    try:
        scanned = scan_coco(
            annotation_file=coco / "instances.json", image_folder=coco / "images", class_names=class_names
        )
    except ValueError as error:
        if not any(text in str(error) for text in JSON_ERRORS):
            raise
    else:
        assert_valid(scanned, 6)


def changed(content: object, place: int, byte: int) -> bytes:
    """The JSON with one byte replaced; unchanged for place 0."""
    text = json.dumps(content).encode()
    place %= len(text)
    if place == 0:
        return text
    return text[:place] + bytes([byte]) + text[place + 1 :]


@FEW
@given(content=CONTENT, names=st.sampled_from([None, ["cat"]]))
def test_json(coco, content, names):
    check_json(coco, json.dumps(content).encode(), names)


@FEW
@given(place=st.integers(0, 1000), byte=st.integers(0, 255))
def test_json_with_a_changed_byte(coco, place, byte):
    check_json(coco, changed(GOOD, place, byte), None)


@pytest.mark.slow
@MANY
@given(content=CONTENT, names=st.sampled_from([None, ["cat"]]))
def test_json_with_many_examples(coco, content, names):
    check_json(coco, json.dumps(content).encode(), names)


@pytest.mark.slow
@settings(MANY, max_examples=600)
@given(place=st.integers(0, 1000), byte=st.integers(0, 255))
def test_json_with_a_changed_byte_and_many_examples(coco, place, byte):
    check_json(coco, changed(GOOD, place, byte), None)


# --- Darknet ---
WORDS = st.one_of(
    st.integers(-2, 3).map(str),
    st.floats(0, 1).map(lambda value: f"{value:.6f}"),
    TEXTS,
    st.sampled_from(["#", ",", "1e999", "\ufeff", "1e19", "-1e308"]),
)
LABEL_FILES = st.one_of(
    st.binary(max_size=60),
    st.lists(st.lists(WORDS, min_size=4, max_size=9).map(" ".join), max_size=6).map(
        lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
    ),
)
DESCRIPTIONS_TEXT = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.tuples(
            st.sampled_from(["train", "val", "names", "nc", "path", "classes", "x"]),
            st.sampled_from([": ", "=", ":\n  - ", ":\n  0: ", ": &a [*a]", ": !!python/name:os.system "]),
            st.one_of(
                TEXTS, st.sampled_from(["images", "train.txt", "/", "..", "[a, b]", "set.names", "*x"])
            ),
        ).map("".join),
        max_size=5,
    ).map("\n".join),
)
IMAGE_PATHS = [
    "images/a.jpg",
    "images/good.jpg",
    "../a.jpg",
    "/etc/passwd",
    "C:\\x\\images\\good.jpg",
    "",
    "images",
]
IMAGE_PATHS += ["\0", "x" * 300, "//", "a/../images/a.jpg", "ü.jpg"]
IMAGE_LISTS = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from(IMAGE_PATHS)).map(lambda names: "\n".join(names).encode()),
)
DARKNET_ERRORS = (
    "listed more than once",
    "the list of images",
    "of its ",  # none of its 3 images is there
    "no label file",
    "no such ",
    "no split ",
    "lies outside of",
    "not valid YAML",
    "not a data.yaml",
    "not key = value",
    " again, after line ",
    "names ",
    "the file of class names",
    "the description of a data set",
    "says ",
    "is neither a path nor a list of paths",
    "no image in this folder",
    "no class 'cat'",
)


@pytest.fixture(scope="module")
def darknet() -> Path:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        write_darknet(root, {"images/good": "0 .5 .5 .25 .5", "images/a": ""}, labels="labels", size=(33, 47))
        yield root


def check_darknet(root: Path, *, most: int, **options) -> tuple[Annotations, list] | None:
    try:
        scanned = scan_darknet(root=root, image_sets=["train"], **options)
    except (ValueError, FileNotFoundError) as error:
        if not any(text in str(error) for text in DARKNET_ERRORS):
            raise
        return None
    assert_valid(scanned, most)
    assert all(Path(path).resolve().is_relative_to(root.resolve()) for path in scanned[0].paths)
    return scanned


@FEW
@given(content=LABEL_FILES, names=st.sampled_from([None, ["cat"], ["cat", "dog"]]))
def test_label_files(darknet, content, names):
    check_label_file(darknet, content, names)


def check_label_file(root: Path, content: bytes, names: list[str] | None) -> None:
    (root / "train.txt").write_text("images/good.jpg\nimages/a.jpg\n")
    (root / "data.yaml").unlink(missing_ok=True)
    (root / "labels/a.txt").write_bytes(content)
    annotations, problems = check_darknet(root, most=2, class_names=names)
    kept = annotations.boxes_original[:1]
    assert kept.tolist() == [[17.625, 8.25, 29.375, 24.75]] or "look like corners" in problems[-1].what


@FEW
@given(content=IMAGE_LISTS)
def test_image_lists(darknet, content):
    (darknet / "data.yaml").unlink(missing_ok=True)
    (darknet / "labels/a.txt").write_text("")
    (darknet / "train.txt").write_bytes(content)
    check_darknet(darknet, most=3)


@FEW
@given(content=DESCRIPTIONS_TEXT, suffix=st.sampled_from([".data", ".yaml"]))
def test_descriptions(darknet, content, suffix):
    check_description(darknet, content, suffix)


def check_description(root: Path, content: str, suffix: str) -> None:
    (root / "data.yaml").unlink(missing_ok=True)
    (root / "labels/a.txt").write_text("")
    (root / "train.txt").write_text("images/good.jpg\nimages/a.jpg\n")
    file = root / f"x{suffix}"
    file.write_bytes(content.encode("utf-8", "surrogatepass"))
    check_darknet(root, most=3, file=file)
    file.unlink()


@pytest.mark.slow
@MANY
@given(content=LABEL_FILES, names=st.sampled_from([None, ["cat"], ["cat", "dog"]]))
def test_label_files_with_many_examples(darknet, content, names):
    check_label_file(darknet, content, names)


@pytest.mark.slow
@settings(MANY, max_examples=600)
@given(content=DESCRIPTIONS_TEXT, suffix=st.sampled_from([".data", ".yaml"]))
def test_descriptions_with_many_examples(darknet, content, suffix):
    check_description(darknet, content, suffix)
