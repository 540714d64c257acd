"""The commands that README.md and the pages of docs/ show, as their readers would type them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from tests.forked import PROJECT

SHELL = ("", "bash", "sh")  # languages of blocks that hold commands
OURS = ("python", "detectors", "make", "torchrun")
OTHERS = ("pip", "tensorboard", "sbatch", "docker", "git", "cd")


class PageCommand(NamedTuple):
    page: str  # README.md, or a path below docs/
    words: tuple[str, ...]  # without the remark behind #
    answer: str  # the line that the page shows below the command; "" if there is none

    @property
    def line(self) -> str:
        return shlex.join(self.words)

    @property
    def is_usage(self) -> bool:
        """A summary of what can be typed: options in [brackets], choices with | between them."""
        return any(word.startswith("[") or word == "|" for word in self.words)


def pages() -> list[str]:
    docs = PROJECT / "docs"
    return ["README.md", *sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))]


def page_text(page: str) -> str:
    return (PROJECT / page if page == "README.md" else PROJECT / "docs" / page).read_text()


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """(language, content) of each fenced block."""
    language, lines = None, []
    for line in text.splitlines():
        if not line.startswith("```"):
            lines.append(line)
        elif language is None:
            language, lines = line[3:].strip(), []
        else:
            yield language, "\n".join(lines)
            language = None


def page_commands(page: str) -> list[PageCommand]:
    """In order. A line that ends in a backslash goes on in the next one; a last `...` is left out."""
    commands = []
    for language, content in blocks(page_text(page)):
        lines = re.sub(r"\\\n\s*", "", content).splitlines() if language in SHELL else []
        for line, below in pairwise([*lines, ""]):
            shown = line.removeprefix("$ ").removeprefix(".venv/bin/")
            if shown.split(" ", 1)[0] in OURS + OTHERS:
                words = shlex.split(shown, comments=True)
                words = words[:-1] if words[-1] == "..." else words
                commands.append(PageCommand(page, tuple(words), below if line.startswith("$ ") else ""))
    return commands
