"""Rules about data settings that do not go together."""

from dataclasses import asdict
from pathlib import Path

import pytest

from detectors.commands.benchmark import command as benchmark
from detectors.commands.browse import command as browse
from detectors.commands.cluster import command as cluster
from detectors.commands.lint import command as lint
from detectors.config.check import ConfigError
from detectors.config.evaluation_data import with_data
from detectors.config.schema import EvaluateConfig
from tests.test_configs import checked


def files_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.fixture
def own_images(tmp_path) -> Path:
    (tmp_path / "set" / "Annotations").mkdir(parents=True)
    return tmp_path / "set"


def refusal(root: Path, hint: str) -> str:
    return (
        "the configuration has 1 problem:\n  "
        f"data.root={root}: data=shapes generates its images in paths.cache and has no other root; {hint}"
    )


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("Annotations/a.xml", "did you mean data=voc?"),
        ("annotations/train.json", "did you mean data=coco?"),
        ("labels/a.txt", "did you mean data=darknet?"),
        ("a.jpg", "for your own images add data=voc, data=coco or data=darknet"),
    ],
)
def test_generated_images_go_to_the_cache_only(file, hint, tmp_path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(ConfigError) as error:
        checked(f"data.root={tmp_path}")
    assert str(error.value) == refusal(tmp_path, hint)
    assert checked("paths.cache=/elsewhere").data.root == "/elsewhere"


@pytest.mark.parametrize(
    "command",
    [
        (lint.main, []),
        (browse.main, []),
        (cluster.main, ["--k", "2"]),
        (benchmark.main, ["data"]),
    ],
)
def test_no_command_writes_into_a_data_root(command, own_images, capsys):
    main, arguments = command
    before = files_below(own_images)
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, f"data.root={own_images}"])
    assert capsys.readouterr().err.startswith(f"error: {refusal(own_images, 'did you mean data=voc?')}\n")
    assert files_below(own_images) == before


@pytest.mark.parametrize("names", ["", " "])
def test_a_class_has_a_name(names):
    with pytest.raises(ConfigError) as error:
        checked(f'data.class_names=[cat,"{names}"]')
    assert str(error.value) == (
        "the configuration has 1 problem:\n"
        f"  data.class_names=['cat', '{names}']: has an empty name; remove it"
    )


def test_an_evaluation_refuses_another_root_of_generated_images(own_images):
    config = checked()
    with pytest.raises(ConfigError) as error:
        with_data(config, EvaluateConfig(run="r", data={"root": str(own_images)}))
    assert str(error.value) == refusal(own_images, "did you mean data=voc?")
    moved = EvaluateConfig(run="r", data=asdict(config.data) | {"format": "voc", "root": str(own_images)})
    assert with_data(config, moved).data.root == str(own_images)
