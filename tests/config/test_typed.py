"""Texts that look like numbers stay texts, and 1e3 is a whole number, wherever they are typed."""

from dataclasses import fields

import pytest
from omegaconf import OmegaConf

from detectors.config.check import ConfigError, check
from detectors.config.composing import as_typed, composed, merged
from detectors.config.schema import HINTS, Config, EvaluateConfig, to_plain
from detectors.config.typed import composable, setting_name, split_at_commas
from tests.test_configs import checked
from tests.test_configs import composed as compose

READ = "YAML reads yes, null, 1e3 and 007 as true, null and numbers"
QUOTE = f'{READ}: write "yes", "null", "1e3", "007" in the yaml file'


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("[yes,no,1e3,007]", ["yes", "no", "1e3", "007"]),
        ("[true, null, 1_000, -3, +5, .5]", ["true", "null", "1_000", "-3", "+5", ".5"]),
        ("[nan,inf,1:30,on,0x10,2020-01-01]", ["nan", "inf", "1:30", "on", "0x10", "2020-01-01"]),
        ("['a, b',\"c\",good dog,vélo,c++]", ["a, b", "c", "good dog", "vélo", "c++"]),
        ("[person]", ["person"]),
    ],
)
def test_entries_stay_what_was_typed(typed, names):
    override = f"data.class_names={typed}"
    for config in (composed([override]), merged(to_plain(checked()), [override])):
        assert check(config).data.class_names == names


@pytest.mark.parametrize("key", ["data.train", "data.val", "data.test", "init.without"])
def test_every_list_of_texts(key):
    group, name = key.split(".")
    config = check(composed([f"{key}=[007,1e3,2007]"]))
    assert getattr(getattr(config, group), name) == ["007", "1e3", "2007"]


def test_single_texts():
    config = check(composed(["name=1e3", "data.name=yes", "data.image_folders.train=007", "data.cache=null"]))
    assert (config.name, config.data.name) == ("1e3", "yes")
    assert (config.data.image_folders.train, config.data.cache) == ("007", None)


def test_hydras_folders():
    assert as_typed(["hydra.run.dir=jürgen/r u n", "hydra.sweep.dir=007"]) == [
        'hydra.run.dir="jürgen/r u n"',
        'hydra.sweep.dir="007"',
    ]
    assert as_typed(["hydra.run.dir=${name}/a", "hydra.run.dir=a/b"]) == [
        "hydra.run.dir=${name}/a",
        "hydra.run.dir=a/b",
    ]


def test_paths_with_characters_that_hydra_reads(tmp_path, monkeypatch):
    """Only of files that exist: what else has such characters may be meant for Hydra."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images (2), a=b").mkdir()
    typed = ["data.root=images (2), a=b", "run=images (2), a=b", "init.from=none (2)"]
    quoted = ['data.root="images (2), a=b"', 'run="images (2), a=b"', "init.from=none (2)"]
    assert as_typed(typed) == quoted
    assert as_typed(quoted[:2]) == quoted[:2]
    assert compose(*quoted[:1]).data.root == "images (2), a=b"


def test_what_is_no_text_is_left_alone():
    kept = ["seed=1", "data=voc", "model.width=.5", "-m", "~data", "data.class_names=null", "data.root=???"]
    kept += ["data.root=${paths.cache}", "input.size=[3,4]", "name='1e3'", "+name=a", "trainer.steps"]
    assert as_typed(kept) == kept
    assert as_typed(["name=1,2", "data.train=[1],[a,2]"]) == ['name="1","2"', 'data.train=["1"],[a,"2"]']
    assert split_at_commas("a,'b,c',[d,{e,f}],") == ["a", "'b,c'", "[d,{e,f}]", ""]


@pytest.mark.parametrize(
    ("text", "value", "place"),
    [
        ("data: {class_names: [yes, cat]}", "[True, 'cat']", "data.class_names"),
        ("data: {class_names: [null, cat]}", "[None, 'cat']", "data.class_names"),
        ("data: {train: [007]}", "[7]", "data.train"),
        ("name: 1e3", "1000.0", "name"),
    ],
)
def test_yaml_that_made_a_number_of_a_text_is_refused(text, value, place):
    """The typed text is lost there, so the message says how to quote it."""
    with pytest.raises(ConfigError) as error:
        check(OmegaConf.merge(compose(), OmegaConf.create(text)))
    (problem,) = error.value.problems
    assert problem.startswith(f"{place}={value}: must be ")
    assert problem.endswith(f"; {QUOTE}")


@pytest.mark.parametrize("steps", ["1e3", "1000", "1000.0", "'${oc.env:STEPS}'"])
def test_a_whole_number_in_every_form(steps, monkeypatch):
    monkeypatch.setenv("STEPS", "1000")
    for config in (
        compose(f"trainer.steps={steps}"),
        OmegaConf.merge(compose(), OmegaConf.create(f"trainer: {{steps: {steps}}}")),
    ):
        value = check(config).trainer.steps
        assert (value, type(value)) == (1000, int)


def test_whole_numbers_of_lists_and_builders():
    config = check(composed(["schedule=step", "schedule.milestones=[1e2,2e2]", "schedule.factors=[.1,.1]"]))
    assert config.schedule.milestones == [100, 200]
    assert all(type(step) is int for step in config.schedule.milestones)
    assert type(check(composed(["model.stride=1.6e1"])).model["stride"]) is int
    with pytest.raises(ConfigError, match=r"trainer.steps=1000.5: must be a whole number"):
        check(composed(["trainer.steps=1000.5"]))


def test_the_schema_for_hydra_has_the_same_settings():
    for schema in (Config, EvaluateConfig):
        assert [f.name for f in fields(composable(schema))] == [f.name for f in fields(schema)]
        loose = OmegaConf.to_container(OmegaConf.structured(composable(schema)))
        strict = OmegaConf.to_container(OmegaConf.structured(schema))
        if "init" in strict:  # `from` is no name in Python
            strict["init"] = {setting_name(name): value for name, value in strict["init"].items()}
            assert strict["init"].keys() == {"from", "without", "randomize"}
        assert loose == strict
    assert HINTS["data.class_names"] == list[str] | None
