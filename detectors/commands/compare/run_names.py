"""Names that tell compared runs apart: runs of one recipe share a name, so what differs is added to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from detectors.data.text_files import read_text

# Settings that do not affect what is learned, or that columns of the table show.
UNNAMED = (
    "name",
    "builders",
    "paths.",
    "data.root",
    "data.cache",
    "data.image_cache",
    "data.workers",
    "data.prefetch",
    "data.timeout",
    "trainer.device",
    "trainer.memory_format",  # measured at the start, so that it may differ between seeds
    "trainer.kernels",
    "trainer.threads",
    "trainer.progress",
    "trainer.probe_images",
    "trainer.resume",
    "trainer.log_every",
    "trainer.eval_batch_size",
)
NAMED_SETTINGS = 3  # differing settings that a name shows


class _PlainLoader(yaml.SafeLoader):
    """Reads what train.py writes, without aliases, by which a small file can stand for a huge one."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias, which train.py does not write")
        return super().compose_node(parent, index)


def read_settings(folder: Path) -> dict[str, Any]:
    """config.yaml of a run, as dotted names and values. See read_configuration."""
    return dict(_flat_settings(read_configuration(folder)))


def read_configuration(folder: Path) -> dict[str, Any]:
    """config.yaml of a run; empty without that file. ValueError if it is no configuration."""
    path = folder / "config.yaml"
    if not path.exists():
        return {}
    fix = "remove it, and compare names the runs by their folders"
    if not path.is_file():
        raise ValueError(f"{path}: not a regular file; {fix}")
    text = read_text(path, what="configuration")
    try:
        content = yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())}); {fix}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not the configuration of a run; {fix}")
    return content


def _flat_settings(settings: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat_settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def distinctly_named(runs: Sequence[dict], settings: Sequence[Mapping[str, Any]]) -> list[dict]:
    """The runs with names that differ. settings: those of each run, from read_settings.

    Runs that share a name get the settings in which they differ, and the last parts of their folders where
    these do not tell them apart.
    """
    names = [run["name"] for run in runs]
    named = []
    for number, run in enumerate(runs):
        twins = [other for other, name in enumerate(names) if name == run["name"]]
        if len(twins) == 1:
            named.append(run)
            continue
        labels = {twin: _differing([settings[other] for other in twins], settings[twin]) for twin in twins}
        alike = [runs[twin] for twin in twins if labels[twin] == labels[number]]
        parts = [part for part in (labels[number], _folder_tail(run, alike)) if part]
        named.append(run | {"name": f"{run['name']} ({', '.join(parts)})"})
    return named


def _differing(twins: Sequence[Mapping[str, Any]], own: Mapping[str, Any]) -> str:
    """`seed=0, optimizer.rate=0.1`: a run's own values of the settings in which it and its twins differ."""
    keys = dict.fromkeys(key for settings in twins for key in settings if not key.startswith(UNNAMED))
    differing = [key for key in keys if len({repr(settings.get(key)) for settings in twins}) > 1]
    shown = [f"{key}={_setting_text(own.get(key))}" for key in differing[:NAMED_SETTINGS]]
    if len(differing) > NAMED_SETTINGS:
        shown.append(f"{len(differing) - NAMED_SETTINGS} more")
    return ", ".join(shown)


def _setting_text(value: Any) -> str:
    return "null" if value is None else str(value).replace(" ", "")


def _folder_tail(run: dict, alike: Sequence[dict]) -> str:
    """The last parts of a run's folder that tell it from the runs that are `alike`; "" for a single one."""
    if len(alike) == 1:
        return ""
    parts = Path(run["folder"]).parts
    depth = next((n for n in range(1, len(parts) + 1) if _tails(alike, n) == len(alike)), len(parts))
    return "/".join(parts[-depth:])


def _tails(runs: Sequence[dict], depth: int) -> int:
    """How many different endings of `depth` parts the folders have."""
    return len({Path(run["folder"]).parts[-depth:] for run in runs})
