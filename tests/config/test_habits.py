"""Command lines of other programs' users: the message names our setting."""

import pytest

from detectors.commands.lint import command as lint
from detectors.config.composing import composed, prepared


def refused(program: str, *arguments: str) -> str:
    with pytest.raises(ValueError) as error:
        prepared(arguments, program)
    return str(error.value)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr=.1", "optimizer.rate=.1"),
        ("lr0=.1", "optimizer.rate=.1"),
        ("optimizer.lr=.1", "optimizer.rate=.1"),
        ("solver.base_lr=.1", "optimizer.rate=.1"),
        ("momentum=.9", "optimizer.momentum=.9"),
        ("weight_decay=5e-4", "optimizer.weight_decay=5e-4"),
        ("batch_size=2", "trainer.batch_size=2"),
        ("max_batches=80200", "trainer.steps=80200"),
        ("subdivisions=8", "trainer.accumulate=8"),
        ("imgsz=640", "input.size=[640,640]"),
        ("workers=2", "data.workers=2"),
        ("device=0", "trainer.device=cuda"),
        ("resume=True", "trainer.resume=FOLDER"),
        ("weights=a.pt", "init.from=a.pt"),
        ("pretrained=a.pt", "init.from=a.pt"),
        ("trainer.init_from=a.pt", "init.from=a.pt"),
        ("model.backbone_weights=a.pt", "init.from=a.pt"),
        ("trainer.init_without=[head]", "init.without=[head]"),
        ("amp=True", "trainer.precision=bfloat16"),
        ("freeze=10", "trainer.freeze=[backbone]"),
        ("epochs=3", "trainer.epochs=3"),
        ("max_epochs=3", "trainer.epochs=3"),
        ("trainer.num_epochs=3", "trainer.epochs=3"),
        ("patience=50", "trainer.stop_patience=50"),
        ("ema=True", "trainer.ema_decay=0.999"),
        ("data.names=x", "data.class_names=[NAME,NAME]"),
        ("eval_batch_size=2", "trainer.eval_batch_size"),
        ("trainr.steps=3", "trainer.steps"),
        ("trainr.stpes=3", "trainer.steps"),
    ],
)
def test_our_setting_is_named(typed, meant):
    message = f"{typed}: there is no such setting; did you mean {meant}?"
    assert refused("train", typed) == message
    with pytest.raises(ValueError) as error:
        composed([typed])  # lint, browse, cluster, ...
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("--epochs 3", "did you mean trainer.epochs=3?"),
        ("--batch-size 4", "did you mean trainer.batch_size=4?"),
        ("--lr=0.1", "did you mean optimizer.rate=0.1?"),
        ("--config x.py", "did you mean experiment=NAME?"),
        ("--cfg-path x", "did you mean experiment=NAME?"),
        ("--cfg yolo.cfg", "`detectors convert` makes a checkpoint of Darknet's cfg and weights"),
        ("--nonsense", "settings are typed as group.key=value, without dashes"),
    ],
)
def test_options_of_other_programs(typed, hint):
    assert refused("train", *typed.split()) == f"{typed}: there is no such option; {hint}"


def test_epochs_take_the_place_of_the_steps_of_a_yaml():
    """trainer=demo names steps; the other way round, check() asks for one length."""
    for typed in ("trainer.epochs=3", "+trainer.epochs=.5"):
        assert prepared(["seed=1", typed], "train") == ["seed=1", typed, "trainer.steps=null"]
    for unchanged in (["trainer.epochs=3", "trainer.steps=9"], ["trainer.epochs=null"], ["trainer.steps=9"]):
        assert prepared(unchanged, "train") == unchanged


def test_all_of_a_command_line_in_one_error():
    assert len(refused("train", "epochs=3", "--lr", ".1", "seed=1", "imgsz=640").splitlines()) == 3


def test_choices_that_are_none(tmp_path):
    listed = (
        "course, darknet, darknet_2016, darknet_9000, darknet_classifier, darknet_tiny, digits, light, none"
    )
    listed += ", small_images, ssd"
    for value in ("null", "off", "false"):
        message = f"augment={value}: choose one of {listed}; did you mean augment=none?"
        assert refused("train", f"augment={value}") == message
    assert refused("train", "model=null").startswith("model=null: choose one of classifier, ")
    assert refused("train", "model=yolov2.yaml") == (
        "model=yolov2.yaml: a choice is named without folder and suffix; did you mean model=yolov2?"
    )
    assert refused("train", "model=yolov8n.pt") == (
        "model=yolov8n.pt: model= names a yaml of conf/model; to start from weights: init.from"
    )
    (tmp_path / "Annotations").mkdir()
    for program in ("train", "evaluate"):
        assert refused(program, f"data={tmp_path}") == (
            f"data={tmp_path}: data= names a yaml of conf/data; "
            f"for your own images: data=voc data.root={tmp_path}"
        )


def test_a_folder_with_the_name_of_a_choice(tmp_path, monkeypatch):
    (tmp_path / "voc").mkdir()
    monkeypatch.chdir(tmp_path)
    for program in ("train", "evaluate"):
        assert prepared(["data=voc"], program) == ["data=voc"]


def test_places_alone(tmp_path, capsys):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").touch()
    message = f"{tmp_path}: images are named by settings: data=darknet data.root={tmp_path}"
    assert refused("train", str(tmp_path)) == message
    with pytest.raises(SystemExit, match="2"):
        lint.main([str(tmp_path)])
    assert capsys.readouterr().err.startswith(f"error: {message}\n")
    resume = "a/x.pt: to go on with a run: trainer.resume=a/x.pt; to start from it: init.from=a/x.pt"
    assert refused("train", "a/x.pt") == resume
    for place in ("RUN", str(tmp_path)):
        what = f"{place}: the run to evaluate is named by a setting: run={place}"
        assert refused("evaluate", place) == what


def test_a_path_with_spaces_and_without_quotes(tmp_path, monkeypatch):
    (tmp_path / "Mäuse und Käfer" / "my set").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    whole = "data.root=Mäuse und Käfer/my set"
    problem = f"data.root=Mäuse: a value with spaces needs quotes: '{whole}'"
    assert refused("train", "data=voc", *whole.split(), "seed=1") == problem
    assert refused("evaluate", *whole.replace("data.root", "run").split()).startswith("run=Mäuse: a value")
    assert prepared([whole], "train") != [] and prepared(["seed=1", "debug=fast"], "train") != []


def test_a_size_of_one_number():
    message = "input.size=320: it is [height,width]; did you mean input.size=[320,320]?"
    assert refused("train", "input.size=320") == message
    assert prepared(["input.size=[320,320]"], "train") == ["input.size=[320,320]"]


def test_evaluations_have_settings_of_their_own():
    assert (
        refused("evaluate", "--weights", "a.pt")
        == "--weights a.pt: there is no such option; did you mean run=a.pt?"
    )
    assert refused("evaluate", "batch=3") == "batch=3: there is no such setting; did you mean batch_size=3?"
    kept = [
        "run=a",
        "batch_size=3",
        "device=cuda:1",
        "split=test",
        "data=null",
        "+data.root=/x",
        "checkpoint=last",
    ]
    assert prepared(kept, "evaluate") == kept


def test_a_training_setting_of_an_evaluation():
    text = "trainer.batch_size=2: there is no such setting; did you mean batch_size?"
    assert refused("evaluate", "run=a", "trainer.batch_size=2") == text


def test_what_hydra_understands_is_left_alone():
    kept = [
        "seed=1",
        "optimizer.rate=.1",
        "optimizer.momentum=.9",
        "model.width=.5",
        "+trainer.foo=1",
        "~data",
    ]
    kept += [
        "debug=null",
        "experiment=null",
        "hydra.run.dir=x",
        "input={size: [3,4]}",
        "trainer.steps",
        "traner=a",
    ]
    kept += ["mixing.mosaic=.5", "data.workers=2", "data.shapes.train=3", "augment=none", "optimizer=sgd"]
    assert prepared(kept, "train") == kept
    options = ["--help", "--cfg", "job", "-cd", "x", "--config-dir=y", "--multirun"]
    assert prepared([*options, *kept], "train") == [*options, *kept]


def test_hydras_options_may_stand_behind_settings():
    assert prepared(["seed=1,2", "-m"], "train") == ["-m", "seed=1,2"]
    assert prepared(["seed=1", "--cfg", "job", "+experiment=a"], "train") == [
        "--cfg",
        "job",
        "seed=1",
        "experiment=a",
    ]
    assert prepared(["+data=voc07"], "evaluate") == ["data=voc07"]


def test_a_long_list_of_images_is_no_path():
    """A shell's pattern beside a setting: together they are longer than a file system's names."""
    images = [f"images/{'x' * 200}{number}.jpg" for number in range(40)]
    with pytest.raises(ValueError, match=r"^images/x+0\.jpg"):
        prepared(["data.root=/my", *images], "train")
