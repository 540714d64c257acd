"""check(): from what Hydra composed to a Config, or to one error that lists all problems, values and fixes.

Hydra lets some mistakes through: keys added with + or ++, anything under augment, model, loss and optimizer,
and values that do not go together.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detectors.config.build import (
    LARGEST_INTEGER,
    MOVED,
    describe_type,
    fits,
    signature_problems,
    with_whole_numbers,
)
from detectors.config.data_rules import DATA_RULES, SettingProblem
from detectors.config.devices import device_problem
from detectors.config.schema import Config, EvaluateConfig
from detectors.config.training_rules import TRAINING_RULES
from detectors.config.typed import as_hinted, group_in, setting_name
from detectors.data.suggestions import did_you_mean

MOVED_TO_INIT = {"init_from": "from", "init_without": "without"}  # from `trainer`, in stored configurations

# Builder -> keywords that the program supplies, not the yaml
GIVEN = {"augment": (), "model": ("num_classes", "loss"), "loss": (), "optimizer": ("module",)}


class ConfigError(ValueError):
    """All problems of a configuration, one a line."""

    def __init__(self, problems: list[str]):
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"the configuration has {count}:", *problems]))
        self.problems = problems


def check(cfg: DictConfig | Mapping[str, Any], schema: type = Config) -> Any:
    """A composed or stored configuration -> an instance of the schema.

    `cfg` is not changed. ConfigError names all problems of the settings at once; if there are none, all
    problems of building the parts that they describe.
    """
    config = checked_settings(cfg, schema)
    if isinstance(config, Config):
        from detectors.config.part_rules import part_problems  # imports PyTorch

        if problems := list(part_problems(config)):
            raise ConfigError(problems)
    return config


def checked_settings(cfg: DictConfig | Mapping[str, Any], schema: type = Config) -> Any:
    """check() without building any part, which takes a fraction of a second: PyTorch is not imported."""
    problems: list[SettingProblem] = []
    config = _read(schema, _resolved(cfg), "", problems)
    for group, given in GIVEN.items() if isinstance(config, Config) else ():
        setattr(config, group, with_whole_numbers(getattr(config, group), group))
        problems += [(group, text) for text in signature_problems(getattr(config, group), group, given)]
    for rule, sections in RULES_OF_SCHEMA.get(schema, {}).items():
        if not {place.partition(".")[0] for place, _ in problems} & set(sections):
            problems += rule(config)
    if problems:
        raise ConfigError([text for _, text in problems])
    return config


def _resolved(cfg: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Plain dicts and lists without interpolations; '???' stands for a missing value."""
    try:
        settings = OmegaConf.to_container(OmegaConf.create(cfg), resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        what = str(error.msg or error).splitlines()[0]
        raise ConfigError([f"{error.full_key}: {what}; give it a value, or set what it refers to"]) from error
    for group in settings.values():
        if isinstance(group, dict) and isinstance(target := group.get("_target_"), str):
            group["_target_"] = MOVED.get(target, target)
    _give_class_activation(settings)
    _move_to_init(settings)
    return settings


def _move_to_init(settings: dict[str, Any]) -> None:
    """init.from and init.without stood in `trainer` before there was a group of their own, and a file for the
    backbone alone in `model.backbone_weights`.
    """
    trainer = settings.get("trainer")
    if isinstance(trainer, dict) and not trainer.keys().isdisjoint(MOVED_TO_INIT):
        settings["trainer"] = {key: value for key, value in trainer.items() if key not in MOVED_TO_INIT}
        moved = {new: trainer[old] for old, new in MOVED_TO_INIT.items() if old in trainer}
        settings["init"] = moved | (settings.get("init") or {})
    model = settings.get("model")
    if isinstance(model, dict) and "backbone_weights" in model:
        file = model.pop("backbone_weights")
        init = settings.setdefault("init", {})
        init["from"] = init.get("from") or file


def _give_class_activation(settings: dict[str, Any]) -> None:
    """YOLOv2 models stored before `model.class_activation` existed took it from their loss."""
    model = settings.get("model")
    loss = settings.get("loss")
    if not isinstance(model, dict) or not isinstance(loss, dict) or "class_activation" not in loss:
        return
    if str(model.get("_target_", "")).startswith("detectors.models.yolov2."):
        model.setdefault("class_activation", loss["class_activation"])


def _read(schema: type, given: Any, place: str, problems: list[SettingProblem]) -> Any:
    """A dataclass from plain values.

    Where a value is wrong, a problem is noted and the default stands in for it.
    """
    if not isinstance(given, Mapping):
        problems.append((place, f"{place}={given!r}: must be a group of settings"))
        given = {}
    hints = typing.get_type_hints(schema)
    known = {setting_name(f.name): f for f in fields(schema)}
    hints = {setting_name(name): hint for name, hint in hints.items()}
    for name in given.keys() - known.keys():
        where = _join(place, name)
        hint = did_you_mean(name, known, listed=True, place=place)
        problems.append((where, f"{where}={given[name]!r}: there is no such setting{hint}"))
    values = {
        name: as_hinted(given[name], hints[name]) if name in given else _default(f)
        for name, f in known.items()
    }
    for name, value in values.items():
        where = _join(place, name)
        if (group := _group(hints[name], value)) is not None:
            values[name] = value if is_dataclass(value) else _read(group, value, where, problems)
        elif isinstance(value, list) and (item := _item_group(hints[name])):
            values[name] = [_read(item, part, f"{where}[{i}]", problems) for i, part in enumerate(value)]
        elif isinstance(value, Mapping) and (item := _item_group(hints[name])):
            values[name] = {
                key: _read(item, part, _join(where, key), problems) for key, part in value.items()
            }
        elif value == "???":
            problems.append((where, f"{where} is missing: set {where}=..."))
        elif text := _wrong(value, hints[name], known[name].metadata):
            problems.append((where, f"{where}={value!r}: {text}"))
    return schema(**{known[name].name: value for name, value in values.items()})


def _group(hint: Any, value: Any) -> type | None:
    """The dataclass of a setting; None for a single value, or for an optional group that is left out."""
    group = group_in(hint)
    return None if value is None and group is not hint else group


def _item_group(hint: Any) -> type | None:
    """The dataclass of the items of a list of groups, or of a dict of groups."""
    return next(filter(is_dataclass, typing.get_args(hint)), None)


def _default(field) -> Any:
    return field.default if field.default_factory is NO_DEFAULT else field.default_factory()


def _wrong(value: Any, hint: Any, rules: Mapping[str, Any]) -> str | None:
    """What is wrong with a single value, and what would be right; None for a right one."""
    if isinstance(value, int) and abs(value) >= LARGEST_INTEGER:
        return "must be less than 2^63"
    if not fits(value, hint):
        return f"must be {describe_type(hint)}{_quoting(value, hint)}"
    if "choices" in rules and value is not None and value not in rules["choices"]:
        hint = did_you_mean(value, rules["choices"]) if isinstance(value, str) else ""
        return f"must be one of {', '.join(rules['choices'])}{hint}"
    if "each" in rules and (bad := [item for item in value if item not in rules["each"]]):
        return f"{bad[0]} must be one of {', '.join(rules['each'])}{did_you_mean(bad[0], rules['each'])}"
    if "device" in rules and (text := device_problem(value)):
        return text
    if "above" in rules and value is not None and value <= rules["above"]:
        return f"must be more than {rules['above']}; {rules['off']} switches it off"
    if "below" in rules and value is not None and value >= rules["below"]:
        return f"must be less than {rules['below']}"
    if "low" in rules and value is not None and value < rules["low"]:
        return f"must be {rules['low']} or more"
    if "high" in rules and value is not None and value > rules["high"]:
        return f"must be {rules['high']} or less"
    return None


def _quoting(value: Any, hint: Any) -> str:
    """How to quote, where YAML has made a number or true or false of a text."""
    items = value if isinstance(value, list) else [value]
    texts = {str, list[str]} & {hint, *typing.get_args(hint)}
    if texts and any(isinstance(item, bool | int | float | None) for item in items):
        read = "YAML reads yes, null, 1e3 and 007 as true, null and numbers"
        return f'; {read}: write "yes", "null", "1e3", "007" in the yaml file'
    return ""


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else str(name)


def _input_size(config: Config) -> Iterator[SettingProblem]:
    size = config.input.size
    if len(size) != 2 or min(size) < 1:
        yield "input.size", f"input.size={size}: must be [height, width] in pixels, such as [416, 416]"


def _scales_form_a_row(config: Config) -> Iterator[SettingProblem]:
    scales = config.input.multi_scale
    if scales is None or scales.min == scales.max == 0:
        return
    place = "input.multi_scale"
    if not 0 < scales.min <= scales.max:
        yield (
            place,
            f"{place}: min={scales.min}, max={scales.max}: set both, such as min=320 and max=608, "
            "or both to 0 to train on one size",
        )
    elif (scales.max - scales.min) % scales.step:
        what = (
            f"{place}: from min={scales.min} no whole number of steps of {scales.step} "
            f"leads to max={scales.max}"
        )
        yield place, f"{what}; set {place}.max={scales.sides()[-1]}, or another step"


def _activations_agree(config: Config) -> Iterator[SettingProblem]:
    """The scores of detections must be computed with the activation that the loss trains."""
    model = config.model.get("class_activation")
    loss = config.loss.get("class_activation")
    if None not in (model, loss) and model != loss:
        what = f"model.class_activation={model}: the loss has loss.class_activation={loss}"
        yield "model", f"{what}; set both alike, or model.class_activation='${{loss.class_activation}}'"


def _what_is_evaluated(config: EvaluateConfig) -> Iterator[SettingProblem]:
    if config.detections is None:
        if config.run is None:
            yield "run", "run is missing: set run=..., or detections=... for saved detections"
        if config.output is not None:
            yield "output", f"output={config.output}: a run's results lie beside its checkpoint; leave it out"
        return
    names = ("run", "score_threshold", "nms_iou", "nms", "candidates_per_class", "max_detections")
    for name in names:
        if (value := getattr(config, name)) is not None:
            yield name, f"{name}={value}: saved detections are measured as they are; leave it out"


# Rule -> the sections it reads: it is left out where one of them is already known to be wrong, so that one
# mistake gives one message.
CONFIG_RULES: dict[types.FunctionType, tuple[str, ...]] = {
    _input_size: ("input",),
    _scales_form_a_row: ("input",),
    **TRAINING_RULES,
    **DATA_RULES,
    _activations_agree: ("model", "loss"),
}
RULES_OF_SCHEMA: dict[type, dict[types.FunctionType, tuple[str, ...]]] = {
    Config: CONFIG_RULES,
    EvaluateConfig: {_what_is_evaluated: ()},
}
