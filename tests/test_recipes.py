"""The originals' recipes, number by number: literals from the cfg files, solvers and notebooks themselves,
not from our yaml.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from detectors.anchors import YOLO_ANCHORS
from detectors.config.schema import Config, MultiScaleConfig
from detectors.darknet.cfg import read_cfg
from detectors.training.assemble import multi_scale
from detectors.training.optim import rate_factor
from tests.test_configs import CONF, built, checked, choices
from tests.yaml_settings import YAML_SETTINGS

COCO_ANCHORS = "0.57273,0.677385 1.87446,2.06253 3.33843,5.47434 7.88282,3.52778 9.77052,9.16828"
# cfg/*.cfg of Darknet f6afaab; batch and subdivisions of its comment "Training".
# recipe: side, batch, subdivisions, burn_in, steps, scales, max_batches, outputs of the head
DARKNET = {
    "yolov2_voc0712": (416, 64, 8, 1000, [40000, 60000], [0.1, 0.1], 80200, 125),
    "yolov2_tiny_voc0712": (416, 64, 2, 0, [-1, 100, 20000, 30000], [0.1, 10, 0.1, 0.1], 40200, 125),
    "yolov2_coco": (608, 64, 8, 1000, [400000, 450000], [0.1, 0.1], 500200, 425),
}
ANCHORS = {
    "yolov2_voc0712": "1.3221,1.73145 3.19275,4.00944 5.05587,8.09892 9.47112,4.84053 11.2364,10.0071",
    "yolov2_tiny_voc0712": "1.08,1.19 3.42,4.41 6.63,11.38 9.42,5.11 16.62,10.52",
    "yolov2_coco": COCO_ANCHORS,
    "yolov2_keras_coco": COCO_ANCHORS,
}
# Caffe, branch ssd: examples/ssd/ssd_pascal.py and ssd_coco.py. recipe: side, stepvalue, max_iter, anchors,
# smallest box
CAFFE = {
    "ssd300_voc0712": (300, [80000, 100000], 120000, 8732, 30),
    "ssd512_voc0712": (512, [80000, 100000], 120000, 24564, 35),
    "ssd300_coco": (300, [280000, 360000], 400000, 8732, 21),
}
PUBLISHED = {
    "yolov2_voc0712": ".768",  # YOLO9000, table 3: YOLOv2 416 x 416 on VOC2007
    "yolov2_tiny_voc0712": ".571",  # Darknet's page
    "yolov2_coco": ".481",  # Darknet's page, 608 x 608
    "ssd300_voc0712": ".772",  # SSD, table with the new data augmentation
    "ssd512_voc0712": ".798",
    "ssd300_coco": ".251",
}


# What else a yaml holds: which builder, which other files, and what it is called.
NO_SETTINGS = ("_target_", "defaults", "name")


def settings_of(path: Path) -> dict:
    """Dotted name -> value of everything that a yaml sets."""
    settings = {}
    for key, value in OmegaConf.to_container(OmegaConf.load(path), resolve=False).items():
        if isinstance(value, dict):
            settings |= {f"{key}.{name}": setting for name, setting in value.items()}
        else:
            settings[key] = value
    return {key: value for key, value in settings.items() if key.rpartition(".")[2] not in NO_SETTINGS}


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in YAML_SETTINGS for name in choices(group)]
)
def test_a_yaml_says_what_the_originals_say(group, name):
    """Every setting of every file."""
    assert settings_of(CONF / group / f"{name}.yaml") == YAML_SETTINGS[group][name]


def test_no_yaml_is_missing():
    assert {group: sorted(files) for group, files in YAML_SETTINGS.items()} == {
        group: choices(group) for group in YAML_SETTINGS
    }


def recipe(name: str) -> Config:
    return checked(f"experiment={name}")


def images_per_step(config: Config) -> int:
    return config.trainer.batch_size * config.trainer.accumulate


@pytest.mark.parametrize("name", DARKNET)
def test_darknets_numbers(name):
    side, batch, subdivisions, burn_in, steps, scales, max_batches, _ = DARKNET[name]
    config = recipe(name)
    assert config.input.size == [side, side]
    assert config.input.resize == "letterbox"
    assert config.input.multi_scale == MultiScaleConfig(
        min=320, max=608, step=32, every=10, final_steps=200
    )  # random=1
    assert (images_per_step(config), config.trainer.accumulate, config.trainer.steps) == (
        batch,
        subdivisions,
        max_batches,
    )
    assert config.trainer.clip_grad_norm is None
    schedule = config.schedule
    assert (schedule.name, schedule.warmup_steps, schedule.warmup_power) == ("step", burn_in, 4)
    assert (schedule.milestones, schedule.factors) == (steps, scales)
    optimizer = {
        "rate": 0.001,
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "bias_rate_factor": 1,
        "rates": None,
        "decay_scales": False,
    }
    assert config.optimizer == {
        "_target_": "detectors.training.optim.sgd",
        **optimizer,
        "rate_in_momentum": False,
    }
    loss = {
        "object_scale": 5,
        "noobject_scale": 1,
        "class_scale": 1,
        "coord_scale": 1,
        "ignore_iou": 0.6,
        "prior_images": 12800,
    }
    assert {key: config.loss[key] for key in loss} == loss
    assert (config.loss["prior_scale"], config.loss["normalizer"], config.loss["class_activation"]) == (
        0.01,
        "batch",
        "softmax",
    )
    assert config.loss["objectness_target"] == "iou"  # rescore=1
    assert (config.model["score_threshold"], config.model["nms_iou"]) == (0.005, 0.45)  # detector valid
    jitter = 0.2 if "tiny" in name else 0.3
    regime = {
        "jitter": jitter,
        "hue": 0.1,
        "saturation": 1.5,
        "exposure": 1.5,
        "max_boxes": 30,
    }  # [net] and [region], `max`
    assert config.augment == {"_target_": "detectors.data.augment.transforms.darknet_augmentation", **regime}
    assert config.data.train_difficult is ("coco" in name)  # scripts/voc_label.py skips them; COCO has none


@pytest.mark.data
@pytest.mark.parametrize("name", DARKNET)
def test_darknets_own_cfg_files(name, shared):
    """The numbers of the file itself. Its batch and subdivisions are those of testing, except the tiny's."""
    config = recipe(name)
    stem = {"yolov2_voc0712": "yolov2-voc", "yolov2_coco": "yolov2", "yolov2_tiny_voc0712": "yolov2-tiny-voc"}
    cfg = read_cfg(shared / f"oracles/darknet/cfg-full/{stem[name]}.cfg")
    net = cfg.net
    region = cfg.region
    assert [net.height, net.width] == config.input.size
    assert (net.learning_rate, net.momentum, net.decay) == tuple(
        config.optimizer[key] for key in ("rate", "momentum", "weight_decay")
    )
    schedule = config.schedule
    assert (net.policy, net.burn_in, net.power) == ("steps", schedule.warmup_steps, schedule.warmup_power)
    assert (list(net.steps), list(net.scales)) == (schedule.milestones, schedule.factors)
    assert net.max_batches == config.trainer.steps
    scales = ("coord_scale", "object_scale", "noobject_scale", "class_scale")
    assert [getattr(region, key) for key in scales] == [config.loss[key] for key in scales]
    assert (region.thresh, region.rescore, region.softmax) == (config.loss["ignore_iou"], True, True)
    assert (region.jitter, region.random) == (config.augment["jitter"], config.input.multi_scale is not None)
    assert region.anchors == built(config).anchors.shapes_cells
    assert (net.hue, net.saturation, net.exposure) == tuple(
        config.augment[key] for key in ("hue", "saturation", "exposure")
    )


@pytest.mark.parametrize("name", CAFFE)
def test_caffes_numbers(name):
    side, steps, max_iter, _, _ = CAFFE[name]
    config = recipe(name)
    assert (config.input.size, config.input.resize) == ([side, side], "stretch")
    assert multi_scale(config) is None
    assert (images_per_step(config), config.trainer.batch_size, config.trainer.steps) == (
        32,
        8,
        max_iter,
    )  # four GPUs of 8
    assert config.trainer.clip_grad_norm is None
    assert (config.schedule.name, config.schedule.warmup_steps) == ("step", 0)
    assert (config.schedule.milestones, config.schedule.factors) == (steps, [0.1, 0.1])  # stepvalue, gamma
    optimizer = {
        "rate": 0.001,
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "bias_rate_factor": 2,
        "rates": None,
        "decay_scales": True,
    }  # lr_mult, decay_mult
    assert config.optimizer == {
        "_target_": "detectors.training.optim.sgd",
        **optimizer,
        "rate_in_momentum": True,
    }
    assert (config.loss["negatives_per_positive"], config.loss["box_scale"]) == (3, 1)
    limits = {"score_threshold": 0.01, "nms_iou": 0.45, "candidates_per_class": 400, "max_detections": 200}
    assert {key: config.model[key] for key in limits} == limits
    assert config.data.train_difficult is True  # use_difficult_gt
    colours = {
        "brightness": 32,
        "contrast": 0.5,
        "saturation": 0.5,
        "hue": 18,
    }  # train_transform_param's distort_param and expand_param
    assert config.augment == {
        "_target_": "detectors.data.augment.transforms.ssd_augmentation",
        **colours,
        "expand": 4,
        "colour_last": False,
    }


def test_the_courses_numbers():
    """experiencor/keras-yolo2, notebook "Yolo Step-by-Step"."""
    config = recipe("yolov2_keras_coco")
    assert (config.input.size, config.input.resize) == ([416, 416], "stretch")
    assert multi_scale(config) is None
    assert images_per_step(config) == config.trainer.batch_size == 16
    assert config.trainer.steps == 100 * -(-118287 // 16)  # epochs=100 of train2017's images
    assert config.optimizer == {
        "rates": None,
        "_target_": "detectors.training.optim.adamw",
        "rate": 0.5e-4,
        "weight_decay": 0,
        "betas": [0.9, 0.999],
    }
    assert {rate_factor(config.schedule, step, config.trainer.steps) for step in (1, 1000, 739300)} == {1}
    assert config.loss == checked("loss=region_keras").loss
    assert config.augment == {"_target_": "detectors.data.augment.transforms.course_augmentation"}
    assert config.loss["normalizer"] == "anchors"
    assert (config.model["score_threshold"], config.model["nms_iou"]) == (0.3, 0.3)


@pytest.mark.parametrize("name", DARKNET)
def test_the_rate_at_the_corners(name):
    """What the [net] section makes of the rate, per image of a batch: network.c's get_current_rate."""
    config = recipe(name)
    corners = {"yolov2_tiny_voc0712": [(1, 1e-4), (100, 1e-3), (20000, 1e-4), (30000, 1e-5)]}
    _, _, _, _, steps, _, last, _ = DARKNET[name]
    usual = [
        (1, 1e-15),
        (500, 6.25e-5),
        (1000, 1e-3),
        (steps[0] - 1, 1e-3),
        (steps[0], 1e-4),
        (steps[1], 1e-5),
        (last, 1e-5),
    ]
    for step, expected in corners.get(name, usual):
        assert config.optimizer["rate"] * rate_factor(config.schedule, step, last) == pytest.approx(
            expected, rel=1e-9
        )


@pytest.mark.parametrize("name", ANCHORS)
def test_anchors_and_outputs(name):
    config = recipe(name)
    detector = built(config)
    expected = [tuple(map(float, pair.split(","))) for pair in ANCHORS[name].split()]
    assert list(detector.anchors.shapes_cells) == expected
    assert expected in YOLO_ANCHORS.values()
    if "voc" in name:
        assert detector.head.conv.out_channels == DARKNET[name][-1]


@pytest.mark.parametrize("name", CAFFE)
def test_default_boxes(name):
    side, _, _, anchors, smallest = CAFFE[name]
    detector = built(recipe(name))
    assert detector.grid((side, side)).num_anchors == anchors
    assert detector.anchors.levels[0].min_size == smallest


@pytest.mark.parametrize(("data", "images"), [("voc0712", 16551), ("coco2017", 118287)])
def test_the_data_yaml_says_how_many_images_there_are(data, images):
    assert f"{images:,} images to train on" in (CONF / "data" / f"{data}.yaml").read_text()


@pytest.mark.parametrize("name", sorted({*DARKNET, *CAFFE, "yolov2_keras_coco"}))
def test_a_recipe_names_its_data_and_where_it_starts(name):
    config = recipe(name)
    assert config.name == name
    assert config.data.name == ("coco2017" if "coco" in name else "voc0712")
    start = {
        "ssd": "vgg16_reduced.pt",
        "yolov2_keras": "yolov2_coco.pt",
        "yolov2_tiny": None,
        "yolov2": "darknet19_448.pt",
    }
    expected = next(file for prefix, file in start.items() if name.startswith(prefix))
    assert config.init.from_ is None if expected is None else Path(config.init.from_).name == expected
    held = [] if expected is None else ["head"] if "keras" in name else ["neck", "head"]
    assert (
        config.init.without == held
    )  # conv.23 and the reduced VGG are backbones; the course draws its last layer anew


@pytest.mark.parametrize("name", choices("experiment"))
def test_a_number_that_was_not_measured_here_is_called_published(name):
    line = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()[2]
    numbers = re.findall(r"(?<![\d.])\.\d{3}", line)
    if name in PUBLISHED:
        assert numbers[0] == PUBLISHED[name]
        assert line.startswith("# Expect: published ") and "Not run here" in line


@pytest.mark.parametrize("name", ["ssd160", "ssd300", "ssd300_coco", "ssd512", "ssd512_coco"])
def test_every_ssd_expects_the_pixels_of_caffes_vgg(name):
    """mean_value of Caffe's ssd_pascal.py and ssd_coco.py, [104, 117, 123] in BGR; nothing is divided."""
    model = checked(f"model={name}").model
    assert (model["pixel_mean"], model["pixel_std"], model["channel_order"]) == (
        [123, 117, 104],
        [1, 1, 1],
        "rgb",
    )
    assert (model["score_threshold"], model["nms_iou"]) == (0.01, 0.45)
    assert (model["candidates_per_class"], model["max_detections"]) == (400, 200)
    assert (model["clip_default_boxes"], model["bipartite"]) == (None, "greedy")


@pytest.mark.parametrize(
    ("name", "anchors", "last"),
    [
        ("yolov2", "voc", ("passthrough_channels", 64)),
        ("yolov2_coco", "coco", ("passthrough_channels", 64)),
        ("yolov2_2016", "tiny_voc", ("passthrough_channels", None)),
        ("yolov2_tiny", "tiny_voc", ("last_channels", 1024)),
        ("yolov2_tiny_coco", "coco", ("last_channels", 512)),
    ],
)
def test_every_yolov2_has_the_numbers_of_its_cfg(name, anchors, last):
    """Darknet's detector: score > .005, IoU > .45, no limit on detections."""
    model = checked(f"model={name}").model
    assert (model["anchors"], model[last[0]], model["width"]) == (anchors, last[1], 1.0)
    assert (model["score_threshold"], model["nms_iou"], model["max_detections"]) == (0.005, 0.45, None)
