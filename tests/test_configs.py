"""Every yaml of conf/ is composed, checked and built; how many there are is asserted, so that none can be
forgotten.
"""

from inspect import signature
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from detectors.config.build import build, find_target
from detectors.config.check import ConfigError, check
from detectors.config.composing import output_folder
from detectors.config.schema import LABELLED_FORMATS, Config, EvaluateConfig
from detectors.postprocess import yolo_logistic_scores
from detectors.wordtree.tree_sources import load_tree

CONF = Path(__file__).resolve().parents[1] / "conf"
COUNTS = {
    "augment": 11,
    "data": 17,
    "debug": 3,
    "experiment": 17,
    "loss": 9,
    "model": 17,
    "optimizer": 6,
    "paths": 1,
    "schedule": 5,
    "trainer": 2,
}
HYDRA = {"help": 2, "job_logging": 3}
SIZES = {
    "160": (160, 160),
    "300": (300, 300),
    "512": (512, 512),
    "yolov2_coco": (608, 608),
    "yolo9000": (544, 544),
}  # part of a model's name -> its input
ANCHORS = {
    "ssd300": 8732,
    "ssd512": 24564,
    "ssd160": 2386,
    "yolov2": 845,
    "yolov2_coco": 1805,
    "yolov2_160": 500,
    "yolo9000": 867,
}
STRETCHING = ("augment=ssd", "augment=darknet_2016")  # these go with a model that stretches its images
OPEN = ("voc", "coco", "darknet", "imagefolder", "imagelist")
TREE = ["data.tree={animal: [cat, dog], thing: [cup, jug]}"]  # six nodes, in place of a file
GENERIC = {  # what these leave open
    **{f"data={name}": ["data.root=/set"] for name in OPEN},
    **dict.fromkeys(
        ("data=coco_imagenet", "experiment=yolo9000_coco_imagenet", "experiment=darknet9000"), TREE
    ),
}
CLASSIFIERS = [
    path.stem for path in (CONF / "model").glob("*.yaml") if "task: classification" in path.read_text()
]
LABELLED = [f"data={name}" for name in LABELLED_FORMATS]
# These go with a classifier that stretches, or that crops, its images.
OF_CLASSIFIERS = {
    **dict.fromkeys((*LABELLED, "augment=digits", "augment=small_images"), "model=first_network"),
    **dict.fromkeys(
        ("augment=darknet_classifier", "loss=cross_entropy", "loss=cross_entropy_tree"),
        "model=darknet19_classifier",
    ),
}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*overrides: str, config_name: str = "train", **options):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config_name, list(overrides), **options)


SWEEPS = ("duel",)  # experiments of several runs, each with the name of its model


def checked(*overrides: str) -> Config:
    return check(composed(*overrides))


def with_its_like(override: str) -> list[str]:
    """A choice, with the model and data that it goes with where these are not the defaults."""
    model = OF_CLASSIFIERS.get(override)
    if override.startswith("loss=multibox") or override in STRETCHING:
        model = "model=ssd160"
    needs_labels = model in [f"model={name}" for name in CLASSIFIERS] and not override.startswith("data=")
    if override.partition("=")[2] in CLASSIFIERS or needs_labels:
        return [override, "data=mnist", *([model] if model else [])]
    return [override, *([model] if model else [])]


def built(config: Config) -> nn.Module:
    """The detector on the meta device: shapes without memory or arithmetic."""
    names = config.data.class_names or "123456"
    if config.data.tree is not None:
        names = load_tree(config.data.tree).names
    with torch.device("meta"):
        detector = build(config.model, num_classes=len(names), loss=build(config.loss))
        build(config.optimizer, detector)
    return detector.eval()  # batch norm cannot train on one image whose last map is 1x1


def test_the_number_of_files():
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra", "local"}
    assert {group: len(choices(group)) for group in groups} == COUNTS
    assert {path.name: len(choices(f"hydra/{path.name}")) for path in (CONF / "hydra").iterdir()} == HYDRA
    assert choices(".") == ["evaluate", "train"]
    found = [path for path in CONF.rglob("*") if path.is_file() and "local" not in path.parts]
    assert len(found) == sum(COUNTS.values()) + sum(HYDRA.values()) + 2


@pytest.mark.parametrize("override", [f"{group}={choice}" for group in COUNTS for choice in choices(group)])
def test_each_choice_is_composed_checked_and_built(override):
    """With its own loss and whatever the defaults are; the head gives one row for every anchor of its input
    size, and a classifier one for each image.
    """
    config = checked(*with_its_like(override), *GENERIC.get(override, []), "optimizer.rate=0.001")
    detector = built(config)
    if config.task == "classification":
        images = torch.empty(2, 3, *config.input.size, device="meta")
        assert detector(images).shape == (2, 6)
        return
    outputs = detector(torch.empty(1, 3, *config.input.size, device="meta"))
    assert outputs.offsets.shape == (1, detector.grid(config.input.size).num_anchors, 4)


@pytest.mark.parametrize("name", [name for name in choices("model") if name not in CLASSIFIERS])
def test_each_model_has_its_own_input_and_anchors(name):
    config = checked(f"model={name}")
    size = next((size for part, size in SIZES.items() if part in name), (416, 416))
    assert tuple(config.input.size) == size
    assert config.input.resize == (
        "stretch" if name.startswith("ssd") or name == "yolov2_2016" else "letterbox"
    )
    assert config.name == name
    key = name if name in ANCHORS else name.split("_")[0]
    assert built(config).grid(size).num_anchors == ANCHORS[key]


@pytest.mark.parametrize("group", ["augment", "loss", "model", "optimizer"])
def test_yaml_names_every_keyword(group):
    """So that each can be overridden without +."""
    for name in choices(group):
        node = composed(*with_its_like(f"{group}={name}"))[group]
        assert (
            set(signature(find_target(node._target_)).parameters)
            <= {"num_classes", "loss", "module"} | node.keys()
        ), name


@pytest.mark.parametrize("experiment", choices("experiment"))
@pytest.mark.parametrize("debug", choices("debug"))
def test_debug_goes_on_top_of_an_experiment(experiment, debug):
    overrides = [f"experiment={experiment}", f"debug={debug}", *GENERIC.get(f"experiment={experiment}", [])]
    settings = composed(*overrides)
    if settings.task == "classification" and debug == "overfit":  # eight generated images with boxes
        with pytest.raises(ConfigError, match=r"data\."):
            check(settings)
        return
    config = check(settings)
    assert config.trainer.steps == {"fast": 4, "overfit": 300, "profile": 60}[debug]
    assert config.trainer.profile_steps == (10 if debug == "profile" else 0)
    assert experiment in SWEEPS or config.name == experiment


@pytest.mark.parametrize("name", choices("experiment"))
def test_an_experiment_says_its_command_and_what_to_expect(name):
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"  # Hydra wants it first
    sweep = "-m " if name in SWEEPS else ""
    assert lines[1] == f"# python train.py {sweep}experiment={name}"
    assert lines[2].startswith("# Expect: ")


def test_what_wins():
    """Later groups win over earlier ones, and the command line over all."""
    assert checked().name == "yolov2_160"
    assert composed("model=ssd300").loss._target_.endswith("MultiBoxLoss")  # a model brings its loss along
    assert composed("model=ssd300", "loss=region").loss._target_.endswith("RegionLoss")
    recipe = checked("experiment=bccd_ssd300")
    assert (recipe.name, recipe.data.name, recipe.input.size) == ("bccd_ssd300", "bccd", [300, 300])
    assert recipe.loss["_target_"].endswith(
        "MultiBoxLoss"
    )  # the experiment chose the model, and that the loss
    assert recipe.model["batch_norm"] is True  # where the model's own yaml says false
    assert checked("experiment=bccd_ssd300", "model.width=0.5").model["width"] == 0.5
    assert checked("experiment=bccd_ssd300", "model=ssd512").input.size == [512, 512]
    assert checked("experiment=bccd_yolov2_tiny", "input.size=[256,352]").input.size == [256, 352]


def test_a_loss_preset_also_sets_what_the_matcher_and_the_default_boxes_need():
    """It wins over the model's yaml; an experiment and the command line win over it, setting by setting."""
    preset = ("model=ssd300", "loss=multibox_torchvision")
    node = checked(*preset)
    assert (node.model["bipartite"], node.model["clip_default_boxes"], node.loss["recount_positives"]) == (
        "last",
        "wh",
        True,
    )
    assert built(node).encoder.matcher.bipartite == "last"
    assert checked(*preset, "model.bipartite=greedy").model["bipartite"] == "greedy"
    assert checked(*preset, "experiment=bccd_ssd300").model["batch_norm"] is True
    with pytest.raises(ConfigError, match="model.bipartite='last': yolov2 has no such keyword"):
        checked("model=yolov2", "loss=multibox_torchvision")
    with pytest.raises(ConfigError, match="model: bipartite='first': choose 'greedy'"):
        checked(*preset, "model.bipartite=first")


def test_a_preset_of_2016_differs_in_one_setting():
    now, then = checked("loss=region").loss, checked("loss=region_2016").loss
    assert {name for name in now if now[name] != then[name]} == {"weigh_small_boxes"}


def test_where_a_run_writes():
    node = composed("paths.output=/o", return_hydra_config=True).hydra
    assert node.run.dir.startswith("/o/train/")
    assert node.run.dir.endswith("_yolov2_160")
    assert node.job.chdir is False
    assert composed(return_hydra_config=True).hydra.run.dir.startswith(f"{output_folder()}/train/")
    assert output_folder() == CONF.parent / "outputs"


def test_where_bccd_lies_comes_from_the_environment(monkeypatch):
    """In a folder that others look after, or else beside the other data sets, where
    detectors/commands/download/command.py puts it.
    """
    monkeypatch.setenv("DETECTORS_SHARED", "/elsewhere")
    assert checked("data=bccd").data.root == "/elsewhere/data/bccd"
    monkeypatch.delenv("DETECTORS_SHARED")
    monkeypatch.setenv("DETECTORS_DATA", "/disk")
    assert checked("data=bccd").data.root == "/disk/bccd"
    monkeypatch.delenv("DETECTORS_DATA")
    assert checked("data=bccd").data.root == str(CONF.parent / "data/bccd")


@pytest.mark.parametrize("data", choices("data"))
def test_evaluate_takes_any_data(data):
    config = check(
        composed("run=somewhere", f"data={data}", *GENERIC.get(f"data={data}", []), config_name="evaluate"),
        EvaluateConfig,
    )
    assert config.data["name"] == data
    assert check(composed("run=somewhere", config_name="evaluate"), EvaluateConfig).data == {}


def test_one_setting_chooses_the_activation_of_loss_and_scores():
    detector = built(checked("model=yolov2", "loss.class_activation=logistic"))
    assert detector.loss.class_activation == "logistic"
    assert detector.postprocess.score_rule is yolo_logistic_scores
    with pytest.raises(
        ConfigError, match=r"model\.class_activation=softmax: the loss has loss\.class_activation=logistic"
    ):
        checked("model=yolov2", "loss.class_activation=logistic", "model.class_activation=softmax")


def test_a_configuration_stored_before_the_model_had_an_activation_takes_that_of_its_loss():
    stored = OmegaConf.to_container(composed("model=yolov2", "loss.class_activation=logistic"), resolve=True)
    del stored["model"]["class_activation"]
    assert check(stored).model["class_activation"] == "logistic"
