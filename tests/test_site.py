"""The documentation site: the order of its pages, and that it loads nothing from elsewhere."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import detectors
from docs.build_hook import PICTURES
from docs.docstrings import expanded
from tests.forked import PROJECT

DOCS = PROJECT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
CONCEPTS = [page for page in PAGES if page.startswith("concepts/") and not page.endswith("index.md")]
LOADS = (
    r"<(?:script|link|img|iframe|source|object|video)\b[^>]*?\b(?:src|href|data)=[\"']?(?:https?:)?//[^>]*>"
)


def listed(part: str | list | dict) -> list[str]:
    """The pages of a part of nav, in order."""
    if isinstance(part, str):
        return [part]
    parts = part.values() if isinstance(part, dict) else part
    return [page for inner in parts for page in listed(inner)]


def test_every_page_has_one_place():
    nav = yaml.safe_load((PROJECT / ".mkdocs.yml").read_text())["nav"]
    assert sorted(listed(nav)) == PAGES


def test_the_overview_names_every_page():
    for folder in ("", "concepts/"):
        overview = (DOCS / folder / "index.md").read_text()
        names = [page.removeprefix(folder) for page in PAGES if page.rpartition("/")[0] == folder.rstrip("/")]
        assert [name for name in names if name != "index.md" and f"]({name})" not in overview] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_code_block_ends_with_an_empty_line(page):
    """Or the builder of the site would take what follows for the same paragraph, and a list for text."""
    inside = False
    lines = (DOCS / page).read_text().splitlines()
    for number, (line, following) in enumerate(zip(lines, [*lines[1:], ""], strict=True), 1):
        if line.startswith("```"):
            inside = not inside
            assert inside or not following, f"{page}, line {number + 1}"


@pytest.mark.parametrize("page", CONCEPTS)
def test_the_examples_of_the_concepts_run(page):
    result = doctest.testfile(str(DOCS / page), module_relative=False)
    assert result.attempted > 3 and result.failed == 0


@pytest.mark.parametrize("page", [page for page in PAGES if page != "log.md"])
def test_the_files_that_a_page_names_exist(page):
    named = re.findall(
        r"(?<![\w/.])(?:detectors|tests|conf|docs)/[\w/]+\.(?:py|yaml|md)\b", (DOCS / page).read_text()
    )
    assert [name for name in named if not (PROJECT / name).exists() and "/local/" not in name] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    """The strict build checks headings as well."""
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (DOCS / page).read_text())
    places = [(DOCS / page).parent / link for link in links if "pictures/" not in link]
    assert [str(place) for place in places if not place.exists()] == []


def test_troubleshooting_has_the_25_complaints():
    assert len(re.findall(r"^- \*\*", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)) == 25


def test_the_pages_show_every_picture():
    shown = [
        name
        for page in PAGES
        for name in re.findall(r"\]\((?:\.\./)?pictures/(\S+)\)", (DOCS / page).read_text())
    ]
    assert sorted(shown) == sorted(PICTURES)


def test_the_reference_describes_what_it_names():
    page = expanded((DOCS / "reference.md").read_text())
    assert "::: " not in page
    assert "- `score`: the lowest score that counts." in page  # an argument
    assert "- `valid`: `Tensor`: (B, M) bool, False in padding rows" in page  # a field
    assert "max_detections: int | None = None,\n)" in page
    assert {f"### `{name}`" for name in detectors.__all__} <= {
        line.split(" { ")[0] for line in page.splitlines()
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site. Not with --quiet: warnings would not be counted, and --strict could not fail."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        ".mkdocs.yml",
        "-d",
        folder,
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(PROJECT)}
    subprocess.run(command, cwd=PROJECT, env=environment, check=True)
    return folder


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere(site):
    pages = [path.relative_to(site).as_posix() for path in site.rglob("*.html")]
    assert {page.replace(".md", ".html") for page in PAGES} <= set(pages)
    loads = [f"{page}: {load}" for page in pages for load in re.findall(LOADS, (site / page).read_text())]
    assert loads == []
    styles = [
        path.name
        for path in site.rglob("*.css")
        if re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text())
    ]
    assert styles == []


@pytest.mark.slow
def test_the_pictures_are_the_same_every_time(site):
    drawn = {path.name: path.read_bytes() for path in (site / "pictures").iterdir()}
    assert drawn == {name: picture() for name, picture in PICTURES.items()}
