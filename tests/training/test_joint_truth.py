"""The ground truth of sets below a tree, from the settings of data.mix to the samples of a run."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_array_equal
from omegaconf import OmegaConf

from detectors.config.check import ConfigError, check
from detectors.config.evaluation_data import same_files, with_cache
from detectors.config.schema import Config
from detectors.data.loading import build_train_loader
from detectors.metrics.report import report
from detectors.structures import Batch, Detections
from detectors.training import assemble, ground_truth
from detectors.training.joint_truth import node_names, refuse_labels_alone, source_mix, taught_nodes
from detectors.wordtree.nodes import WordTree
from tests.data.files import box_xml, write_voc
from tests.data.labelled import write_folder, write_idx
from tests.test_configs import checked, composed

TREE = {"animal": ["cat", "dog"], "thing": ["cup", "zero", "one", "two"]}


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, dict]:
    """Boxes of cats and mugs in five images, four pictures of dogs and cups, twelve digits."""
    objects = {
        f"v{n}": box_xml("cat", 1, 1, 30, 30) * (n % 2) + box_xml("mug", 9, 9, 60, 50) for n in range(5)
    }
    voc = str(write_voc(tmp_path / "voc", objects))
    folder = write_folder(tmp_path / "folder/train", {"dog": 3, "cup": 1}).parent
    digits = write_idx(tmp_path / "digits", train=12, classes=3)
    boxes = {"format": "voc", "root": voc, "sets": ["train"], "nodes": {"mug": "cup"}}
    return {
        "boxes": boxes,
        "folder": {"format": "imagefolder", "root": str(folder), "sets": ["train"]},
        "digits": {
            "format": "mnist",
            "root": str(digits),
            "sets": ["train"],
            "class_names": ["zero", "one", "two"],
            "weight": 2.0,
        },
        "single": boxes | {"labels_only": True},
    }


@cache
def base() -> dict:
    return OmegaConf.to_container(composed("data=voc", "data.root=unused"), resolve=False)


def configured(
    folder: Path, sets: dict[str, dict], *changes: str, train: str = "boxes,folder,digits"
) -> Config:
    """folder: paths.cache."""
    joint = {"name": "joint", "format": "joint", "val": ["boxes"], "tree": TREE, "mix": sets}
    joint |= {"train": train.split(",")}
    config = OmegaConf.merge(base(), {"data": joint, "paths": {"cache": str(folder)}})
    return check(OmegaConf.merge(config, OmegaConf.from_dotlist(list(changes))))


def test_sets_of_any_kind_are_joined(sets, tmp_path):
    data = configured(tmp_path, sets).data
    truth = ground_truth.read_annotations(data, "train")
    assert truth.class_names == ("animal", "thing", "cat", "dog", "cup", "zero", "one", "two")
    assert truth.parts == (5, 4, 12)
    assert_array_equal(truth.image_labels, [-1] * 5 + [4] + [3] * 3 + [5, 6, 7] * 4)
    assert_array_equal(truth.labels, [4, 2, 4, 4, 2, 4, 4])  # of the five images: mug, cat mug, ...
    assert truth.image_ids[0] == "boxes/v0" and truth.image_ids[9] == "digits/0"
    assert source_mix(data, truth).weights == (1.0, 1.0, 2.0)
    val = ground_truth.read_annotations(data, "val", truth.class_names)
    assert list(val.image_ids) == ["v0", "v1", "v2", "v3", "v4"]
    classes = taught_nodes(data, truth)
    taught = [classes.taught_by(node) for node in range(8)]
    assert taught == ["boxes", "boxes", "boxes", "labels", "boxes", "labels", "labels", "labels"]


def test_a_set_with_boxes_can_give_labels_alone(sets, tmp_path, caplog):
    caplog.set_level("INFO")
    data = configured(tmp_path, sets, train="single").data
    truth = ground_truth.read_annotations(data, "train")
    assert list(truth.image_ids) == ["v0", "v2", "v4"] and len(truth.labels) == 0
    assert_array_equal(truth.image_labels, [4, 4, 4])
    assert "data.mix.single: 2 images of data.train show several classes, or none" in caplog.text


def test_samples_have_their_boxes_or_their_label(sets, tmp_path):
    config = configured(tmp_path, sets)
    dataset = assemble.train_dataset(config, ground_truth.read_annotations(config.data, "train"))
    boxed, folder, digit = (dataset[0, index] for index in (1, 5, 10))
    assert (boxed.image_label, folder.image_label, digit.image_label) == (-1, 4, 6)
    assert len(boxed.labels) == 2 and len(folder.labels) == len(digit.labels) == 0
    assert digit.image.shape == (160, 160, 3) and len(digit.image[80].unique()) > 9


def batch_digests(batch: Batch) -> list[str]:
    """Of each sample. Those of the first five images have boxes, the others a label alone."""
    targets = batch.targets
    digests = []
    for number, info in enumerate(batch.infos):
        label = targets.image_labels[number]
        valid = targets.valid[number]
        assert (info.index < 5) == (label < 0) and (label < 0 or not valid.any())
        parts = (batch.images[number], targets.boxes[number][valid], targets.labels[number][valid], label)
        digests.append(
            hashlib.sha256(b"".join(it.contiguous().numpy().tobytes() for it in parts)).hexdigest()
        )
    return digests


def test_batches_of_mixed_sets_are_the_same_bytes_in_any_process(sets, tmp_path):
    """With 0 and 2 workers, from any step on, and shared by two processes; with a broken image replaced by
    others of its set.
    """
    broken = tmp_path / "voc/JPEGImages/v2.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    config = configured(tmp_path, sets, "input.size=[64,64]", "data.on_error=skip")
    truth = ground_truth.read_annotations(config.data, "train")

    def digests(**options) -> list[list[str]]:
        dataset = assemble.train_dataset(config, truth)
        loader = build_train_loader(dataset, **{"batch_size": 4, "steps": 8, "workers": 0, **options})
        return [batch_digests(batch) for batch in loader]

    whole = digests()
    assert digests(workers=2) == whole
    assert digests(start_step=5) == whole[5:]
    two = [digests(batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*two, strict=True)] == whole
    assert len({it for batch in whole for it in batch}) == 32


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.train=[boxse]"], "data.train=['boxse']: data.mix has no set 'boxse'; did you mean boxes?"),
        (["data.train=[boxes,boxes]"], "data.train=['boxes', 'boxes']: must name each set once"),
        (["data.tree=null"], "data.tree is missing: several sets are joined below a tree"),
        (["data.train=[]"], "data.train=[]: name the sets of data.mix to train on: boxes, folder, digits"),
        (["data.mix.boxes.sets=[]"], "data.mix.boxes.sets=[]: name its image sets"),
        (["data.mix.boxes.format=coco"], "data.mix.boxes: COCO's format takes one annotation file in sets"),
        (
            ["data.mix.boxes.map=x.map"],
            "data.mix.boxes: map=x.map and nodes={'mug': 'cup'}: leave one of them out",
        ),
        (["data.mix.boxes.wieght=3"], "data.mix.boxes.wieght=3: there is no such setting; did you mean"),
        (["data.mix.boxes.weight=0"], "data.mix.boxes.weight=0: must be more than 0"),
        (["data.class_names=[cat]"], "data.class_names: the classes are the nodes of data.tree"),
        (["mixing.mosaic=0.5"], "mixing.mosaic=0.5: a mixed image has more than its label"),
        (
            ["data.format=voc"],
            "data.mix=['boxes', 'folder', 'digits', 'single']: goes with data.format",
        ),
        (["data.tree=nowhere.tree"], "data.tree: nowhere.tree"),
        (["data.mix.boxes.format=shapes"], "/voc: data=shapes generates its images in paths.cache"),
        (
            ["task=classification"],
            "learns one label for each image; choose data=imagefolder",
        ),
    ],
)
def test_settings_that_do_not_go_together(sets, tmp_path, overrides, message):
    with pytest.raises(ConfigError) as error:
        configured(tmp_path, sets, *overrides)
    assert message in str(error.value)


def test_a_class_without_a_node_names_its_set(sets, tmp_path):
    data = configured(tmp_path, sets | {"boxes": sets["boxes"] | {"nodes": {}}}).data
    with pytest.raises(ValueError, match=r"data\.mix\.boxes: the class 'mug' is no node of data\.tree"):
        ground_truth.read_annotations(data, "train")


def test_a_map_has_a_line_for_each_class(sets, tmp_path):
    (tmp_path / "two.map").write_text("4\n2\n")
    (tmp_path / "three.map").write_text("4\n2\n2\n")
    boxes = sets["boxes"] | {"nodes": {}, "map": f"{tmp_path}/two.map"}
    truth = ground_truth.read_annotations(configured(tmp_path, sets | {"boxes": boxes}).data, "train")
    assert set(truth.labels.tolist()) == {2, 4} and truth.labels[0] == 2  # mug is the second class
    three = boxes | {"map": f"{tmp_path}/three.map"}
    with pytest.raises(ValueError, match=r"three\.map: has 3 nodes, and data\.mix\.boxes has 2 classes"):
        ground_truth.read_annotations(configured(tmp_path, sets | {"boxes": three}).data, "train")


def test_a_missing_folder_names_its_set(sets, tmp_path):
    moved = sets | {"folder": sets["folder"] | {"root": str(tmp_path / "elsewhere")}}
    with pytest.raises(FileNotFoundError, match=r"data\.mix\.folder: .*elsewhere"):
        ground_truth.read_annotations(configured(tmp_path, moved).data, "train")


def test_a_loss_without_a_tree_refuses_labels_alone(sets, tmp_path):
    config = configured(tmp_path, sets)
    truth = ground_truth.read_annotations(config.data, "train")
    with pytest.raises(ValueError, match=r"16 of 21 training images have a label and no boxes, such as .*cu"):
        refuse_labels_alone(config.data, truth, config.loss)
    refuse_labels_alone(config.data, truth, config.loss | {"tree": config.data.tree})
    boxes = ground_truth.read_annotations(configured(tmp_path, sets, train="boxes").data, "train")
    refuse_labels_alone(config.data, boxes, config.loss)


def test_another_tree_than_the_networks_is_an_error(sets, tmp_path):
    data = configured(tmp_path, sets).data
    with pytest.raises(ValueError, match=r"data\.tree has the 8 nodes animal, thing, cat, "):
        ground_truth.read_annotations(data, "val", ["cat", "dog"])


def test_a_tree_makes_nodes_of_the_classes_of_any_set(sets, tmp_path):
    voc = tmp_path / "voc"
    config = checked(
        "data=voc", f"data.root={voc}", "data.val=[train]", "data.tree={animal: [dog, cat], mug: []}"
    )
    truth = ground_truth.read_annotations(config.data, "train")
    assert truth.class_names == ("animal", "mug", "dog", "cat") and truth.image_labels is None
    assert_array_equal(truth.labels, [1, 3, 1, 1, 3, 1, 1])


def test_names_that_several_nodes_have_get_their_number():
    tree = WordTree.of(("a", "b", "c", "c"), (-1, -1, 0, 1))
    assert node_names(tree) == ("a", "b", "c#2", "c#3")


def test_generated_sets_may_move_with_their_cache(tmp_path):
    config = checked("data=shapes_joint", f"paths.cache={tmp_path}")
    moved = with_cache(config, str(tmp_path / "other"))
    assert {source.root for source in moved.data.mix.values()} == {str(tmp_path / "other")}
    assert same_files(config.data, moved.data)
    moved.data.mix["labels"].weight = 3.0
    assert not same_files(config.data, moved.data)


def test_detections_on_images_without_boxes_count_nowhere(sets, tmp_path):
    truth = ground_truth.read_annotations(configured(tmp_path, sets).data, "train")
    boxes = torch.from_numpy(truth.boxes_original).float()
    perfect = (torch.from_numpy(truth.image), boxes, torch.ones(len(boxes)), torch.from_numpy(truth.labels))
    false = (torch.arange(5, 21), boxes[:1].expand(16, 4), torch.full((16,), 2.0), torch.full((16,), 4))
    both = Detections(*(torch.cat([b, a]) for a, b in zip(perfect, false, strict=True)))
    result = report(truth, both)
    assert result.scalars["AP"] == 1.0 and result.detections == len(boxes)
