"""detectors lint on sets with every kind of fault, without faults, and with broken files of real sets."""

import base64
import json
import logging
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detectors.commands import train
from detectors.commands.lint import command
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.data.image_headers import ORIENTATION
from detectors.data.problems import KINDS
from tests.data.files import box_xml, write_coco, write_darknet, write_image, write_voc

OTHER_KINDS = {"broken-entry", "missing-label", "empty-label", "polygon-label"}
VOC_KINDS = sorted(set(KINDS) - OTHER_KINDS)  # broken-entry is for COCO only, the others for Darknet
SIZE = (60, 80)  # (height, width)
VALID = {name: box_xml(name, 5 + 7 * n, 5, 40 + 3 * n, 50) for n, name in enumerate(("bird", "cat", "dog"))}
FAULTS = {  # stem -> objects; break_files() adds the faults of files
    "partly-outside": box_xml("cat", 60, 10, 95, 50),
    "outside-image": box_xml("cat", 90, 10, 95, 50),
    "duplicate-box": 2 * box_xml("cat", 10, 10, 50, 50),
    "two-classes": box_xml("cat", 10, 10, 50, 50) + box_xml("dog", 10, 10, 50, 50),
    "tiny-box": box_xml("cat", 10, 10, 10.5, 50),  # 1.5 px wide, 0.6 px at the model's input
    "no-area": box_xml("cat", 50, 10, 50, 30),
    "broken-object": box_xml("cat", "ten", 10, 50, 30),
    "alike-classes": box_xml("Dog", 10, 10, 50, 50),  # also the only box of a rare class
    **dict.fromkeys(
        (
            "too-large",
            "missing-image",
            "broken-image",
            "missing-annotation",
            "broken-annotation",
            "size-differs",
        ),
        VALID["cat"],
    ),
    **dict.fromkeys(
        ("trailing-bytes", "grayscale", "cmyk", "16-bit", "transparent", "rotated", "in-two-splits"),
        VALID["cat"],
    ),
}


def write_faulty(root: Path) -> Path:
    """A set with every kind of finding once."""
    val_objects = VALID["cat"] + VALID["dog"] + box_xml("Dog", 1, 1, 9, 9)
    write_voc(root, {"unknown-class": box_xml("cow", 10, 10, 50, 50), "val": val_objects}, split="val")
    valid_images = {f"valid_{n}": "".join(VALID.values()) for n in range(12)}
    write_voc(root, {**FAULTS, **valid_images, "duplicate-image": VALID["cat"]}, split="train")
    images = root / "JPEGImages"
    # write_voc draws the same images in each call: val needs others than train
    for number, stem in enumerate(("unknown-class", "val")):
        picture = np.random.default_rng(100 + number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        cv2.imwrite(str(images / f"{stem}.jpg"), picture)
    break_files(root, images)
    return root


def break_files(root: Path, images: Path) -> None:
    (images / "missing-image.jpg").unlink()
    data = (images / "broken-image.jpg").read_bytes()
    (images / "broken-image.jpg").write_bytes(data[: len(data) // 2])
    write_image(images / "too-large.jpg", (61, 81))
    (root / "Annotations" / "missing-annotation.xml").unlink()
    (root / "Annotations" / "broken-annotation.xml").write_text("<annotation><object>")
    with (images / "trailing-bytes.jpg").open("ab") as file:
        file.write(b"\0" * 100)
    for stem, mode in (("grayscale", "L"), ("cmyk", "CMYK")):
        Image.open(images / f"{stem}.jpg").convert(mode).save(images / f"{stem}.jpg")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.open(images / "rotated.jpg").save(images / "rotated.jpg", exif=exif)
    Image.open(images / "size-differs.jpg").resize((40, 30)).save(images / "size-differs.jpg")
    Image.open(images / "transparent.jpg").convert("P").save(images / "transparent.png", transparency=0)
    pixels_16_bit = cv2.imread(str(images / "16-bit.jpg")).astype(np.uint16) * 257
    cv2.imwrite(str(images / "16-bit.png"), pixels_16_bit)
    for stem in ("transparent", "16-bit"):
        (images / f"{stem}.jpg").unlink()
    shutil.copy(images / "valid_0.jpg", images / "duplicate-image.jpg")
    val_list = root / "ImageSets" / "Main" / "val.txt"
    val_list.write_text(val_list.read_text() + "in-two-splits\n../outside-folder\n")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Path:
    return write_faulty(tmp_path_factory.mktemp("faulty"))


def data_of(faulty: Path) -> list[str]:
    settings = ["data.class_names=[bird,cat,dog,Dog,empty-class]", f"data.max_pixels={SIZE[0] * SIZE[1]}"]
    return ["data=voc", f"data.root={faulty}", *settings, "input.size=[32,32]"]


def run(capsys, *arguments: object) -> tuple[int, str]:
    """Exit status and standard output."""
    try:
        command.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code, capsys.readouterr().out
    return 0, capsys.readouterr().out


class Page(HTMLParser):
    """Collects tags, pictures and text. Asserts that every opened tag is closed."""

    VOID = ("meta", "img")

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open = []
        self.tags = Counter()
        self.pictures = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.pictures += [value for name, value in attributes if name == "src"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def decoded(picture: str) -> np.ndarray:
    data = base64.b64decode(picture.removeprefix("data:image/jpeg;base64,"), validate=True)
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_every_kind_of_finding_is_reported_once(faulty, tmp_path, capsys):
    """In the text, in the JSON file and on the page."""
    files = ["--json", tmp_path / "a.json", "--html", tmp_path / "a.html"]
    status, printed = run(capsys, *data_of(faulty), "--workers", 0, *files)
    assert status == 1
    report = json.loads((tmp_path / "a.json").read_text())
    findings = report["findings"]
    assert Counter(finding["kind"] for finding in findings) == Counter(VOC_KINDS)
    for finding in findings:
        line = f"{finding['file']}: {finding['what']}" if finding["what"] else finding["file"]
        assert len(re.findall(re.escape(line) + "\n", printed)) == 1, line
        if finding["kind"] not in ("alike-classes", "rare-class", "absent-class"):
            assert finding["kind"] in finding["file"] + finding["what"], finding
    errors = sum(KINDS[kind].error for kind in VOC_KINDS)
    warnings = len(VOC_KINDS) - errors
    assert (report["errors"], report["warnings"]) == (errors, warnings)
    assert f"\n{errors} errors, {warnings} warnings\n" in printed
    page = Page((tmp_path / "a.html").read_text())
    for finding in findings:
        assert finding["file"] in page.text
    assert page.tags["script"] == page.tags["link"] == 0
    without_picture = page.text.count("this image cannot be shown")
    assert without_picture == 3  # the missing, the broken and the too large image
    assert len(page.pictures) + without_picture == sum(bool(finding["image"]) for finding in findings)
    assert all(max(decoded(picture).shape) >= 480 for picture in page.pictures)


def test_the_report_does_not_depend_on_the_number_of_workers(faulty, tmp_path, capsys):
    reports = set()
    for workers in (0, 1, 2):
        path = tmp_path / f"{workers}.json"
        status, printed = run(capsys, *data_of(faulty), "--workers", workers, "--json", path)
        assert status == 1
        reports.add((printed, path.read_bytes()))
    assert len(reports) == 1


def test_a_set_without_faults_has_no_errors(tmp_path, capsys):
    shapes = [f"paths.cache={tmp_path}", "data.shapes.train=60", "data.shapes.val=20"]
    status, printed = run(capsys, "data=shapes", *shapes, "--workers", 0, "--html", tmp_path / "page.html")
    assert status == 0
    assert "\n0 errors, " in printed
    assert Page((tmp_path / "page.html").read_text()).tags["img"] == 0


def test_images_that_are_shared_out_are_all_checked(tmp_path, capsys):
    settings = [f"paths.cache={tmp_path}", "data.shapes.train=8", "data.shapes.val=2", "data.shapes.size=32"]
    share = ["data.val=[train]", "data.test=[]", "data.val_share=0.25"]
    run(capsys, "data=shapes", *settings, *share, "--workers", 0, "--json", tmp_path / "a.json")
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["same_lists"] == {"val": "train"}
    assert {name: split["images"] for name, split in report["statistics"]["splits"].items()} == {"train": 8}


def test_coco(tmp_path, capsys):
    """Findings name the annotation file and the image. Splits with the same list are checked once."""
    content = {
        "categories": [{"id": 3, "name": "cat"}],
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 60, "width": 80} for n in range(2)],
        "annotations": [
            {
                "id": n,
                "image_id": n % 2,
                "category_id": 3,
                "bbox": [5 * n, 10, 30, 20],
                "area": 600,
                "iscrowd": 0,
            }
            for n in range(12)
        ],
    }
    write_coco(tmp_path, content)
    lists = [
        "data=coco",
        f"data.root={tmp_path}",
        *(f"data.{split}=[instances.json]" for split in ("train", "val")),
    ]
    folders = [f"data.image_folders.{split}=images" for split in ("train", "val")]
    status, printed = run(capsys, *lists, *folders, "--workers", 0)
    assert status == 0
    assert f"train: {tmp_path}/instances.json: 1.jpg: cat [55, 10, 30, 20], by 5 px out of 80 x 60" in printed
    assert "  val    the same list as train" in printed
    assert f"train: {tmp_path}/images/1.jpg: the same pixels as {tmp_path}/images/0.jpg" in printed
    assert "0 errors, 2 warnings\n" in printed


def test_splits_can_be_chosen(faulty, tmp_path, capsys):
    options = ["--splits", "val", "--workers", 0, "--json", tmp_path / "a.json"]
    status, _ = run(capsys, *data_of(faulty), *options)
    assert status == 1
    report = json.loads((tmp_path / "a.json").read_text())
    assert list(report["statistics"]["splits"]) == ["val"]
    assert [finding["kind"] for finding in report["findings"] if finding["error"]] == [
        "outside-folder",
        "unknown-class",
    ]


def test_training_reports_in_one_line_what_it_left_out(faulty, caplog):
    caplog.set_level(logging.INFO, logger="detectors.commands.train")
    config = check(composed([*data_of(faulty), "data.on_error=skip", "data.allow_empty_classes=true"]))
    annotations, val_annotations = train.read_data(config)
    assert (len(annotations), len(val_annotations)) == (31, 3)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "detectors.commands.train"]
    for part in ("left out boxes without area: 1 in train", "left out objects of unknown classes: 1 in val"):
        assert f"; {part};" in line
    assert "; boxes that reach out of their image: 1 in train;" in line
    assert line.endswith("; detectors lint shows them")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=nothing"], "data=nothing"),
        (["data=voc", "data.root=/nowhere"], "/nowhere"),
        (["data=shapes", "--workers", "-1"], "--workers -1: must be 0 or more"),
        (["data=voc07", "data.test=[]", "--splits", "test"], "data.test is empty"),
    ],
)
def test_user_errors_have_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_report_that_cannot_be_written(faulty, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "a.json"  # its folder is a file
    status, _ = run(capsys, "data=voc", f"data.root={faulty}", "--workers", 0, "--json", path)
    assert status == 2


def write_bad_input(root: Path, shared: Path) -> Path:
    """Broken files of real data sets, in VOC's layout."""
    source = shared / "bad-input"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for path in sorted((source / "images").iterdir()):
        shutil.copy(path, root / "JPEGImages")
        xml = source / "xml" / f"{re.sub('_(truncated|zero_padded).*', '', path.stem)}.xml"
        text = (
            xml.read_text() if xml.is_file() else "<annotation></annotation>"
        )  # the two files of COCO have no XML
        (root / "Annotations" / f"{path.stem}.xml").write_text(text)
    for xml in sorted((source / "xml").glob("voc2012*")):  # draws images of the size in the XML
        width, height = (
            int(re.search(f"<{side}>(\\d+)<", xml.read_text())[1]) for side in ("width", "height")
        )
        noise = np.random.default_rng(len(xml.stem)).integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(root / "JPEGImages" / f"{xml.stem}.jpg"), noise)
        shutil.copy(xml, root / "Annotations")
    stems = sorted(path.stem for path in (root / "JPEGImages").iterdir())
    (root / "ImageSets" / "Main" / "all.txt").write_text("\n".join(stems))
    return root


@pytest.mark.data
def test_broken_files_of_real_sets(tmp_path, shared, capsys):
    """Fractional coordinates and reordered XML elements are valid: no finding is about those images."""
    root = write_bad_input(tmp_path / "set", shared)
    data = ["data=voc", f"data.root={root}", "data.train=[all]", "data.val=[all]"]
    files = ["--json", tmp_path / "a.json", "--html", tmp_path / "a.html"]
    status, _ = run(capsys, *data, "--workers", 2, *files)
    assert status == 1
    report = json.loads((tmp_path / "a.json").read_text())
    image_findings = [finding for finding in report["findings"] if finding["image"]]
    assert {(finding["kind"], Path(finding["file"]).stem) for finding in image_findings} == {
        ("broken-image", "kangaroo_00090_truncated"),
        ("trailing-bytes", "kangaroo_00053_zero_padded_524288"),
        ("no-area", "BloodImage_00338"),
        ("no-area", "BloodImage_00343"),
        *(("grayscale", f"raccoon-{number}") for number in (150, 152, 161)),
        ("grayscale", "coco_000000000086_grayscale"),
    }
    assert report["same_lists"] == {"val": "train"}
    assert report["statistics"]["splits"]["train"]["images without boxes"] == 2
    page = Page((tmp_path / "a.html").read_text())
    assert len(page.pictures) == 7


def test_darknet_labels(tmp_path, capsys):
    """Label files that are missing, empty or polygons are counted; boxes are named as in their files."""
    texts = {
        "a": "0 .5 .5 .25 .5\n" * 2,
        "b": None,
        "c": " \n# nothing to see\n",
        "d": "0 .4 .4 .6 .4 .6 .6\n0 .95 .5 .2 .5",
        "e": "0 .5 .5 .25 .5 .9\n0 40 30 20 30",
    }
    write_darknet(tmp_path, {f"images/train/{name}": text for name, text in texts.items()}, labels="labels")
    (tmp_path / "x.names").write_text("cat\n")
    page = tmp_path / "lint.html"
    arguments = ["data=darknet", f"data.root={tmp_path}", "data.val=[]", "--html", str(page)]
    arguments += ["--workers", "0", f"paths.cache={tmp_path}/cache"]
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 1
    printed = capsys.readouterr().out.replace(f"{tmp_path}/", "")
    for line in (
        "  train  5 images, 4 boxes; 3 images without boxes, 2 faults left out",
        "  train: labels/train/e.txt: line 1: '0 .5 .5 .25 .5 .9' has a sixth column; "
        "a confidence belongs to detections, remove it",
        "  train: labels/train/e.txt: line 2: cat [40, 30, 20, 30]; "
        "the numbers are fractions of the image's width and height",
        "  train: images/train/b.jpg: no labels/train/b.txt",
        "  train: labels/train/c.txt",
        "  train: labels/train/d.txt: 1 of 2 lines have more than five columns",
        "  train: labels/train/d.txt: cat [0.95, 0.5, 0.2, 0.5], by 4 px out of 80 x 60",
        "  train: labels/train/a.txt: cat [0.5, 0.5, 0.25, 0.5], and cat [0.5, 0.5, 0.25, 0.5]",
    ):
        assert line in printed.splitlines()
    assert page.read_text().count("<img") >= 5
