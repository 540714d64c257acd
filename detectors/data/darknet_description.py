"""A .data file or a data.yaml: what describes a set in Darknet's format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from detectors.data.text_files import read_text

DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml")  # looked for in data.root; then the only *.data


@dataclass
class DarknetDescription:
    """The content of a .data file or data.yaml."""

    file: Path
    values: dict[str, object]

    def texts(self, key: str) -> list[str]:
        """A split's value: one path, or a list of them."""
        value = self.values.get(key) or []
        paths = [value] if isinstance(value, str) else value
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise ValueError(f"{self.file}: {key} is neither a path nor a list of paths")
        return paths


def read_description(root: Path, file: Path | None) -> DarknetDescription | None:
    """file: data.file, from the working directory or from root; None: the one in root, or None.

    FileNotFoundError or ValueError for a faulty file, or for several in root.
    """
    if file is None:
        file = _description_in(root)
        if file is None:
            return None
    elif not file.exists() and (root / file).exists():
        file = root / file
    text = read_text(file, what="description of a data set (data.file)")
    is_yaml = file.suffix.lower() in (".yaml", ".yml")
    return DarknetDescription(file, _yaml_values(file, text) if is_yaml else _data_values(file, text))


def _description_in(root: Path) -> Path | None:
    for name in DESCRIPTIONS:
        if (root / name).is_file():
            return root / name
    files = sorted(root.glob("*.data"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{root}: has several descriptions, {names}; choose one with data.file={files[0]}")
    return files[0] if files else None


def _yaml_values(file: Path, text: str) -> dict[str, object]:
    """Every scalar stays the text that was written (a class named `no`); nothing is executed."""
    try:
        content = yaml.load(text, Loader=yaml.BaseLoader)  # builds texts, lists and dicts only
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file}: not valid YAML ({reason})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: not a data.yaml, which has train:, val: and names:")
    return {str(key): value for key, value in content.items()}


def _data_values(file: Path, text: str) -> dict[str, object]:
    values: dict[str, object] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise ValueError(
                f"{file}: line {number} is {line[:60]!r}, not key = value; a .data file has "
                "classes, train, valid and names, each a line"
            )
        key = key.strip()
        if key in values:
            raise ValueError(
                f"{file}: line {number} gives {key} again, after line {lines[key]}, which Darknet takes; "
                "remove one of them"
            )
        values[key] = value.strip()
        lines[key] = number
    return values


def names_by_id(file: Path, names: object) -> list[str]:
    """names: a list, or id -> name with the ids 0..C-1. ValueError, with the file's name, otherwise."""
    if isinstance(names, dict):
        ids = {str(number): number for number in range(len(names))}
        if set(names) != set(ids):
            wrong = next(key for key in names if key not in ids)
            raise ValueError(f"{file}: names has the id {wrong!r}; the ids are 0 to {len(names) - 1}")
        names = [names[identity] for identity in ids]
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"{file}: names is neither a list of class names nor id: name")
    return names
