"""The data that evaluate.py measures on: a run's own, others in their place, or those of detections alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import MISSING, OmegaConf

from detectors.config.check import ConfigError, check
from detectors.config.data_rules import shapes_in_the_cache
from detectors.config.schema import Config, DataConfig, EvaluateConfig, PathsConfig, SourceConfig, to_plain

# Settings of `data` that do not name files.
LOADING = (
    "on_error",
    "allow_empty_classes",
    "cache",
    "workers",
    "prefetch",
    "timeout",
    "image_cache",
    "reduced_decode",
    "max_pixels",
)


@dataclass
class _DataAlone:
    """What a data set needs of Config."""

    data: DataConfig = field(default_factory=DataConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)


def data_alone(settings: EvaluateConfig) -> DataConfig:
    """The data settings given to evaluate.py, which has no run. ConfigError if they are not valid."""
    alone = check({"data": settings.data, "paths": to_plain(settings)["paths"]}, _DataAlone)
    if problems := [text for _, text in shapes_in_the_cache(alone)]:
        raise ConfigError(problems)
    return alone.data


def same_files(before: DataConfig, now: DataConfig) -> bool:
    """Whether two settings name the same ground truth in the same place."""
    elsewhere = ("root",) if now.format == "shapes" else ()  # generated images are the same in any cache
    moved = replace(before, **{name: getattr(now, name) for name in (*LOADING, *elsewhere)})
    return replace(moved, mix=_with_shapes_in(moved, "")) == replace(now, mix=_with_shapes_in(now, ""))


def _with_shapes_in(data: DataConfig, cache: str) -> dict[str, SourceConfig]:
    """data.mix with the generated images in another place."""
    return {
        name: replace(source, root=cache) if source.format == "shapes" else source
        for name, source in data.mix.items()
    }


def with_cache(config: Config, cache: str) -> Config:
    """The configuration with another paths.cache, and the settings that follow from it."""
    data = replace(
        config.data,
        cache=config.data.cache and f"{cache}/annotations",
        mix=_with_shapes_in(config.data, cache),
    )
    if data.format == "shapes":
        data.root = cache
    return replace(config, data=data, paths=replace(config.paths, cache=cache))


def with_data(config: Config, settings: EvaluateConfig) -> Config:
    """The run's configuration with the data settings given to evaluate.py over its own.

    Another data set, as data=voc names one, keeps no split, class list or cache of the run's, but its tree. A
    data.root alone is the run's own set, moved. ValueError for images that the run was trained on.
    """
    if not settings.data:
        return config
    base = to_plain(config)
    if {"name", "format"} <= settings.data.keys():  # as every yaml of conf/data does
        base["data"] = {name: base["data"][name] for name in (*LOADING, "tree")}
        if settings.paths.cache != MISSING:
            base["data"]["cache"] = f"{settings.paths.cache}/annotations"
            base["paths"]["cache"] = settings.paths.cache
    changed = check(OmegaConf.merge(base, {"data": settings.data}))
    split = settings.split
    seen = [] if split == "train" else trained_on(config.data, changed.data, split)
    if seen:
        raise ValueError(
            f"data.{split}={getattr(changed.data, split)}: the run was trained on {', '.join(seen)}; "
            "choose images that it has not seen, or split=train, which says what the number is"
        )
    return changed


def trained_on(before: DataConfig, now: DataConfig, split: str) -> list[str]:
    """The image sets of a split that a run was trained on.

    VOC's trainval is train and val; roots may have moved.
    """
    if Path(before.root).name != Path(now.root).name:
        return []
    seen = {part for name in before.train for part in _parts(name)}
    return [name for name in getattr(now, split) if seen & _parts(name)]


def _parts(image_set: str) -> set[str]:
    """VOC2012/trainval -> VOC2012/train, VOC2012/val"""
    year, slash, name = image_set.rpartition("/")
    return {f"{year}{slash}{part}" for part in (("train", "val") if name == "trainval" else (name,))}
