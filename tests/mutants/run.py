"""Plants one-line mistakes, one by one, and runs the tests that must notice each (`make mutants`).

    python -m tests.mutants.run [PART ...]

The *.toml files beside this one list the mistakes:

    file      below the repository's root
    original  a text that occurs exactly once in it
    mutated   what replaces it
    breaks    the rule that the mistake breaks
    tests     what pytest runs; at least one of them must fail

PART selects the mistakes whose list or file has it in its name: losses, postprocess.py, conf/. Everything
happens in a temporary copy of the repository. Each mistake is caught, or SURVIVED, or BROKEN: its tests did
not run. The exit status is 1 unless every mistake is caught.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("conf", "detectors", "docs", "tests", "README.md", "evaluate.py", "pyproject.toml", "train.py")
VERDICTS = {0: "SURVIVED", 1: "caught"}  # pytest's exit status -> ours; others mean that no test ran


class Mutant(NamedTuple):
    part: str  # name of the list that it stands in
    file: str
    original: str
    mutated: str
    breaks: str
    tests: list[str]

    def apply(self, root: Path) -> str:
        """The mutated text of its file below `root`. ValueError unless `original` occurs exactly once."""
        text = (root / self.file).read_text(encoding="utf-8")
        count = text.count(self.original)
        if count != 1:
            raise ValueError(f"{self.file}: {self.original!r} occurs {count} times; it must occur once")
        return text.replace(self.original, self.mutated)


def read_mutants(parts: Sequence[str] = ()) -> list[Mutant]:
    """The listed mistakes; with `parts`, those whose list or file has one of them in its name."""
    mutants = [
        Mutant(path.stem, **entry)
        for path in sorted(Path(__file__).parent.glob("*.toml"))
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    ]
    return [m for m in mutants if not parts or any(part in m.part or part in m.file for part in parts)]


def verdicts(mutants: Sequence[Mutant], root: Path) -> Iterator[tuple[Mutant, str]]:
    """Each mutant with its verdict. root: a copy of the repository, which is as before afterwards."""
    for mutant in mutants:
        path = root / mutant.file
        unchanged = path.read_text(encoding="utf-8")
        path.write_text(mutant.apply(root), encoding="utf-8")
        status = run_tests(mutant.tests, root)
        path.write_text(unchanged, encoding="utf-8")
        yield mutant, VERDICTS.get(status, "BROKEN")


def run_tests(tests: Sequence[str], root: Path) -> int:
    """pytest's exit status."""
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, check=False).returncode


def copy_repository(target: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignore)
        else:
            shutil.copy(source, target / name)


def main(parts: Sequence[str]) -> int:
    mutants = read_mutants(parts)
    if not mutants:
        print(f"no mistake is listed for {' '.join(parts)}")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy_repository(root)
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        if run_tests(tests, root):
            print("the tests fail without any mistake: " + " ".join(tests))
            return 1
        missed = 0
        for mutant, verdict in verdicts(mutants, root):
            missed += verdict != "caught"
            print(f"{verdict:8}  {mutant.file}: {mutant.breaks}", flush=True)
    print(f"{len(mutants)} mistakes, {missed} not caught")
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
