"""What is wrong with settings of `schedule` and `trainer` that do not go together; whole messages."""

from __future__ import annotations

import pytest

from detectors.config.check import ConfigError, check
from detectors.config.composing import composed, merged
from detectors.config.schema import PhaseConfig, to_plain


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        check(composed(list(overrides)))
    return error.value.problems


ENDS = "each phase but the last one needs its last step; they must rise, and be less than trainer.steps=1000"
A_STEP = "{name: step, milestones: [300], factors: [0.1]}"


@pytest.mark.parametrize(
    ("phases", "problem"),
    [
        (
            "[]",
            "schedule.name=phases with 0 schedule.phases: phases go with schedule.name=phases; "
            "set both, or neither",
        ),
        ("[{name: constant}, {name: cosine}]", f"schedule.phases: until=[None]: {ENDS}"),
        ("[{until: 1000}, {name: cosine}]", f"schedule.phases: until=[1000]: {ENDS}"),
        ("[{until: 500}, {until: 500}, {}]", f"schedule.phases: until=[500, 500]: {ENDS}"),
        (
            "[{until: 500}, {until: 1000}]",
            "schedule.phases: until=1000 of the last phase: it ends with the run; leave it out",
        ),
        (
            "[{until: 50}, {}]",
            "schedule.warmup_steps=100: longer than the first of schedule.phases; set 50 or fewer",
        ),
        (
            f"[{{until: 300}}, {A_STEP}]",
            "schedule.phases[1].milestones=[300]: must be steps of this phase, 301 to 1000",
        ),
        ("[{name: step}]", "schedule.phases[0].milestones=[]: must be steps of this phase, 1 to 1000"),
        (
            "[{milestones: [3]}]",
            "schedule.phases[0].milestones=[3] and schedule.phases[0].factors=[]: each milestone needs one "
            "factor; give both lists the same length",
        ),
        (
            "[{name: cosin}]",
            "schedule.phases[0].name='cosin': must be one of constant, step, cosine, poly; "
            "did you mean cosine?",
        ),
        (
            "[{til: 3}]",
            "schedule.phases[0].til=3: there is no such setting; did you mean schedule.phases[0].until?",
        ),
        ("[3]", "schedule.phases[0]=3: must be a group of settings"),
    ],
)
def test_phases_that_do_not_follow_each_other(phases, problem):
    assert problems("schedule=phases", f"schedule.phases={phases}") == [problem]


def test_phases_of_another_schedule():
    assert problems("+schedule.phases=[{}]") == [
        "schedule.name=cosine with 1 schedule.phases: phases go with schedule.name=phases; "
        "set both, or neither"
    ]


def test_phases_survive_a_checkpoint():
    """As settings of their types, which a stored configuration gives again."""
    config = check(composed(["schedule=phases", "schedule.phases=[{until: 2e2}, {name: cosine}]"]))
    assert config.schedule.phases == [PhaseConfig(until=200), PhaseConfig("cosine")]
    assert type(config.schedule.phases[0].until) is int
    assert check(merged(to_plain(config), ["trainer.steps=2000"])).schedule == config.schedule


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["trainer.epochs=3", "trainer.steps=1000"],
            "trainer.steps=1000 and trainer.epochs=3.0: a run has one length; set one of them to null",
        ),
        (
            ["trainer.steps=null"],
            "trainer.steps=null: a run needs a length; set trainer.steps or trainer.epochs",
        ),
        (["trainer.epochs=0"], "trainer.epochs=0.0: must be more than 0; null switches it off"),
        (["trainer.max_minutes=0"], "trainer.max_minutes=0.0: must be more than 0; null switches it off"),
        (["trainer.max_images=0"], "trainer.max_images=0: must be 1 or more"),
        (["trainer.stop_patience=0"], "trainer.stop_patience=0: must be 1 or more"),
        *(
            (
                ["trainer.stop_patience=2", lacking],
                "trainer.stop_patience=2: counts evaluations, and this run has none but the last; "
                "set trainer.eval_every and data.val",
            )
            for lacking in ("trainer.eval_every=0", "data.val=[]")
        ),
    ],
)
def test_a_length_that_cannot_be_meant(overrides, problem):
    assert problems(*overrides) == [problem]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            [],
            "trainer.cuda_graphs=true with trainer.compile=false: the graphs are those of compiled steps; "
            "set trainer.compile=true",
        ),
        (
            ["trainer.compile=true", "trainer.accumulate=2"],
            "trainer.cuda_graphs=true with trainer.accumulate=2: a graph has memory for the gradients of one "
            "batch; set trainer.accumulate=1",
        ),
    ],
)
def test_cuda_graphs_without_what_they_need(overrides, problem):
    assert problems("trainer.cuda_graphs=true", *overrides) == [problem]
