"""What a configuration can be wrong in, and what check() says about it."""

import copy

import pytest

from detectors.config.build import build, describe_type, find_target, fits
from detectors.config.check import ConfigError, check
from detectors.config.schema import Config, EvaluateConfig, to_plain, to_yaml
from detectors.losses.multibox_loss import MultiBoxLoss
from tests.test_configs import checked, composed


@pytest.fixture(scope="module")
def plain() -> dict:
    """The default configuration of train.py as plain values."""
    return to_plain(checked())


def changed(plain: dict, place: str, value) -> dict:
    """A copy with one value set."""
    result = copy.deepcopy(plain)
    *groups, name = place.split(".")
    node = result
    for group in groups:
        node = node[group]
    node[name] = value
    return result


def problems(plain: dict, **changes) -> list[str]:
    for place, value in changes.items():
        plain = changed(plain, place.replace("__", "."), value)
    with pytest.raises(ConfigError) as error:
        check(plain)
    return error.value.problems


def test_a_checkpoints_configuration_is_read_back(plain):
    config = check(plain)
    assert isinstance(config, Config)
    assert to_plain(config) == plain
    assert "size:" in to_yaml(config)


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        ("trainer.stpes", 3, "trainer.stpes=3: there is no such setting; did you mean trainer.steps?"),
        ("data.shapes.sed", 3, "data.shapes.sed=3: there is no such setting; did you mean data.shapes.seed?"),
        ("sede", 1, "sede=1: there is no such setting; did you mean seed?"),
        ("trainer.steps", "many", "trainer.steps='many': must be a whole number"),
        ("trainer.steps", 1.5, "trainer.steps=1.5: must be a whole number"),
        ("trainer.steps", True, "trainer.steps=True: must be a whole number"),
        ("trainer.steps", 0, "trainer.steps=0: must be 1 or more"),
        (
            "trainer.steps",
            None,
            "trainer.steps=null: a run needs a length; set trainer.steps or trainer.epochs",
        ),
        ("mixing.mosaic", 1.5, "mixing.mosaic=1.5: must be 1 or less"),
        ("mixing.mixup", -0.1, "mixing.mixup=-0.1: must be 0 or more"),
        (
            "trainer.trackers",
            ["csv", "tensorbord"],
            "tensorbord must be one of tensorboard, csv, wandb, mlflow; did you mean tensorboard?",
        ),
        ("trainer.device", "gpu", "must be one of auto, cpu, cuda, cuda:0, cuda:1, ...; did you mean cuda?"),
        ("trainer.device", "gpu:1", "; did you mean cuda:1?"),
        ("trainer.device", "0", "; did you mean cuda:0?"),
        ("trainer.device", "cpuu", "; did you mean cpu?"),
        ("seed", 10**20, "seed=100000000000000000000: must be less than 2^63"),
        ("optimizer.rate", float("inf"), "optimizer.rate=inf: must be a number"),
        ("trainer.clip_grad_norm", float("nan"), "trainer.clip_grad_norm=nan: must be a number or null"),
        ("trainer.clip_grad_norm", 0, "clip_grad_norm=0: must be more than 0; null switches it off"),
        ("trainer.clip_grad_norm", -1, "trainer.clip_grad_norm=-1: must be more than 0; null"),
        (
            "input.resize",
            "leterbox",
            "input.resize='leterbox': must be one of letterbox, stretch, crop; did you mean letterbox?",
        ),
        ("input.size", [300], "input.size=[300]: must be [height, width] in pixels"),
        ("input.size", ["a", 3], "input.size=['a', 3]: must be a list whose items are each a whole number"),
        ("input", None, "input=None: must be a group of settings"),
        ("name", "???", "name is missing: set name=..."),
        ("data.root", "${nowhere}", "data.root: Interpolation key 'nowhere' not found; give it a value"),
        ("data.class_names", ["cat", "cat"], "data.class_names=['cat', 'cat']: must name each class once"),
        ("model.widht", 0.5, "model.widht=0.5: yolov2_tiny has no such keyword; did you mean model.width?"),
        (
            "model.num_classes",
            3,
            "model.num_classes=3: num_classes cannot be set here, "
            "the program gives it to yolov2_tiny; remove it",
        ),
        ("model.width", "wide", "model.width='wide': must be a number"),
        ("model.anchors", "vok", "model: anchors='vok': choose one of voc, coco, tiny_voc"),
        ("model.stride", 5, "model: stride=5"),
        ("model", {}, "model._target_ is missing: choose a yaml of conf/model/"),
        (
            "model._target_",
            "os.system",
            "model._target_='os.system': only builders of this package can be built",
        ),
        (
            "model._target_",
            "detectors.models.sdd.ssd300",
            "model._target_='detectors.models.sdd.ssd300': there is no module",
        ),
        (
            "model._target_",
            "detectors.models.yolov2.yolov3",
            "detectors.models.yolov2 has no builder yolov3 of model; did you mean yolov2?",
        ),
        ("augment.jiter", 0.2, "augment.jiter=0.2: light_augmentation has no such keyword"),
        ("augment", {"name": "light"}, "augment._target_ is missing: choose a yaml of conf/augment/"),
        (
            "augment",
            {"_target_": "detectors.data.augment.transforms.darknet_augmentation", "jitter": 0.7},
            "augment: jitter=0.7: must be from 0 to 0.49",
        ),
        (
            "augment",
            {"_target_": "detectors.data.augment.transforms.ssd_augmentation"},
            "input.resize='letterbox': augment=ssd trains as input.resize=stretch would evaluate; "
            "set input.resize=stretch",
        ),
        ("loss.objectness_target", "two", "loss: objectness_target='two': choose 'iou'"),
        ("optimizer.rate", "???", "optimizer.rate is missing: adamw needs it; set optimizer.rate=..."),
        ("optimizer.rate", -1, "optimizer: Invalid learning rate: -1"),
    ],
)
def test_each_mistake_has_its_message(plain, place, value, text):
    """One mistake, one message, that begins with the place and ends with the fix."""
    (found,) = problems(plain, **{place.replace(".", "__"): value})
    assert text in found


def test_missing_keyword(plain):
    del (broken := copy.deepcopy(plain))["optimizer"]["rate"]
    with pytest.raises(
        ConfigError, match=r"optimizer.rate is missing: adamw needs it; set optimizer.rate=..."
    ):
        check(broken)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["input.size=[300,300]"], "input.size=[300, 300]: yolov2_tiny cannot take it"),
        (
            ["model=ssd300", "input.size=[512,512]"],
            "these default boxes belong to (300, 300); set input.size=[300, 300]",
        ),
        (
            ["model=ssd300", "loss=region"],
            "ssd300 is trained with MultiBoxLoss; set loss=multibox, or choose another model",
        ),
        (
            ["loss=multibox"],
            "yolov2_tiny is trained with RegionLoss; set loss=region, or choose another model",
        ),
        (
            ["trainer.steps=50"],
            "schedule.warmup_steps=100: longer than the whole run, trainer.steps=50; "
            "set schedule.warmup_steps=5",
        ),
        (
            ["trainer.histograms_every=25", "trainer.log_every=10"],
            "trainer.histograms_every=25: not a multiple of trainer.log_every=10; "
            "set trainer.histograms_every=30",
        ),
        (["schedule=step", "schedule.factors=[.1]"], "each milestone needs one factor"),
        (["schedule=step", "schedule.milestones=[5,3]"], "schedule.milestones=[5, 3]: must increase"),
        (["schedule.name=step"], "schedule.milestones=[]: the step schedule needs some"),
        (
            ["data.reduced_decode=true", "data.image_cache=ram"],
            "the cache holds whole images; set data.reduced_decode=false, or data.image_cache=none",
        ),
        (["data=voc"], "data.root is missing: set data.root=..."),
        (["data=voc07", "data.train=[]"], "data.train=[]: name the image sets of the train split"),
        (
            ["data=coco2017", "data.train=[a,b]"],
            "data.train=['a', 'b']: COCO's format takes one annotation file for each split",
        ),
        (
            ["data=coco2017", "data.image_folders.val=null"],
            "data.image_folders.val is missing: set data.image_folders.val=...",
        ),
        (
            ["input.multi_scale={min: 96}"],
            "input.multi_scale: min=96, max=0: set both, such as min=320 and max=608, or both to 0",
        ),
        (["input.multi_scale={min: 96, max: 64}"], "input.multi_scale: min=96, max=64: set both"),
        (
            ["input.multi_scale={min: 96, max: 170}"],
            "from min=96 no whole number of steps of 32 leads to max=170; set input.multi_scale.max=160",
        ),
        (
            ["input.multi_scale={min: 88, max: 152}"],
            "input.multi_scale: yolov2_tiny cannot take every side from 88 to 152: input size (88, 88) "
            "(height, width): this YOLOv2 needs multiples of its stride 16; set input.multi_scale=null, "
            "or other sides",
        ),
        (["input.multi_scale={min: 96, max: 160, every: 0}"], "input.multi_scale.every=0: must be 1 or more"),
        (["+trainer.foo=1"], "trainer.foo=1: there is no such setting; there are: steps,"),
        (["++extra.foo=1"], "extra={'foo': 1}: there is no such setting"),
    ],
)
def test_combinations(overrides, text):
    """What Hydra composes without complaint and check() refuses."""
    with pytest.raises(ConfigError) as error:
        check(composed(*overrides))
    (found,) = error.value.problems
    assert text in found


@pytest.mark.parametrize("side", [160, 300, 512])
def test_an_ssd_is_trained_at_one_size(side):
    """Its default boxes are published for that size; the range may hold it, and may be it alone."""
    ranges = f"input.multi_scale={{min: {side - 32}, max: {side + 32}}}"
    with pytest.raises(ConfigError) as error:
        check(composed(f"model=ssd{side}", ranges))
    assert error.value.problems == [
        f"input.multi_scale: ssd{side} is trained at {side} x {side} alone, for which its default boxes are "
        "made; set input.multi_scale=null, or choose a YOLOv2"
    ]
    config = check(composed(f"model=ssd{side}", f"input.multi_scale={{min: {side}, max: {side}}}"))
    assert list(config.input.multi_scale.sides()) == [side]


@pytest.mark.parametrize("model", ["yolov2", "yolov2_coco", "yolov2_2016", "yolov2_tiny", "yolov2_tiny_coco"])
def test_every_yolov2_takes_darknets_sizes(model):
    config = check(composed(f"model={model}", "input.multi_scale={min: 320, max: 608}"))
    assert len(config.input.multi_scale.sides()) == 10


def test_multi_scale_is_off_until_its_sides_are_set(plain):
    """null as well as 0 and 0; a checkpoint from before there was the setting counts as off."""
    assert list(check(plain).input.multi_scale.sides()) == []
    assert check(changed(plain, "input.multi_scale", None)).input.multi_scale is None
    assert to_plain(check(changed(plain, "input.multi_scale", None)))["input"]["multi_scale"] is None
    del (old := copy.deepcopy(plain))["input"]["multi_scale"]
    assert check(old) == check(plain)
    assert list(check(composed("input.multi_scale={min: 96, max: 160}")).input.multi_scale.sides()) == [
        96,
        128,
        160,
    ]
    (found,) = problems(plain, input__multi_scale__mni=3)
    assert "did you mean input.multi_scale.min?" in found
    (found,) = problems(plain, input__multi_scale=5)
    assert found == "input.multi_scale=5: must be a group of settings"


def test_all_problems_in_one_error(plain):
    found = problems(plain, trainer__stpes=3, trainer__steps=0, seed=-1, model__widht=1, input__size=[7])
    assert len(found) == 5
    with pytest.raises(
        ConfigError, match=r"the configuration has 2 problems:\n  sede=1: .*\n  seed=-1: must be 0 or more"
    ):
        check(changed(changed(plain, "sede", 1), "seed", -1))


def test_nothing_is_changed(plain):
    cfg = composed()
    before = copy.deepcopy(cfg)
    check(cfg)
    assert cfg == before
    kept = copy.deepcopy(plain)
    problems(plain, seed=-1)
    assert plain == kept


def test_evaluate_has_its_own_schema():
    with pytest.raises(ConfigError, match=r"run is missing: set run=\.\.\."):
        check(composed(config_name="evaluate"), EvaluateConfig)


def test_build():
    loss = build(
        {"_target_": "detectors.losses.multibox_loss.MultiBoxLoss", "box_scale": 2.0},
        negatives_per_positive=1.0,
    )
    assert isinstance(loss, MultiBoxLoss)
    assert (loss.box_scale, loss.negatives_per_positive) == (2.0, 1.0)
    with pytest.raises(ValueError, match="only builders of this package"):
        build({"_target_": "subprocess.run"})
    with pytest.raises(ValueError, match="detectors.losses has no builder multibox"):
        find_target("detectors.losses.multibox")


@pytest.mark.parametrize(
    ("value", "hint", "fit"),
    [
        (1, float, True),
        (True, int, False),
        (2**63, int, False),
        (10**400, float, False),
        (float("inf"), float | None, False),
        (float("nan"), float, False),
        (True, float, False),
        ("1", int, False),
        (None, int | None, True),
        (None, int, False),
        ([1, 2.5], list[float], True),
        ([1, "a"], list[float], False),
        ([[1, 2]], list[list[float]], True),
        ([1, 2], tuple[float, float], True),
        ([1], tuple[float, float], False),
        ([1, 2, 3], tuple[float, ...], True),
        ("voc", str | list[float], True),
        (object(), Config, True),  # beyond yaml: the builder must see to it
    ],
)
def test_fits(value, hint, fit):
    assert fits(value, hint) is fit


def test_describe():
    assert describe_type(list[str] | None) == "a list whose items are each text, or null"
    assert describe_type(int | None) == "a whole number or null"
    assert describe_type(list[float]) == "a list whose items are each a number"
