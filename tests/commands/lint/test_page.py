"""The report as text and as an HTML page."""

from detectors.commands.lint.findings import Finding
from detectors.commands.lint.lint_report import LintReport, as_json, table_lines, text
from detectors.commands.lint.page import SHOWN, page
from detectors.commands.lint.statistics import statistics
from detectors.data.problems import LISTED, Problem
from tests.commands.lint.sets import split_of
from tests.data.files import write_image

MANY = SHOWN + 50


def report_of(problems: list[Problem]) -> tuple[LintReport, list]:
    splits = [split_of([[[1, 1, 9, 9]]])]
    findings = [Finding("train", problem) for problem in problems]
    return LintReport("set", findings, statistics(splits, size=(160, 160), resize="letterbox"), {}), splits


def test_many_findings():
    """The text lists the first ones and counts the rest. The page lists more, the JSON all of them."""
    report, splits = report_of([Problem("no-area", f"/set/{n:03d}.xml", "object 1") for n in range(MANY)])
    printed = text(report)
    assert printed.count(".xml: object 1\n") == LISTED
    assert f"\n  ... and {MANY - LISTED} more; --json FILE has them all\n" in printed
    html = page(report, splits, 6)
    assert html.count("<li>train: /set/") == SHOWN
    assert "<li>and 50 more, in the JSON</li>" in html
    assert len(as_json(report)["findings"]) == MANY


def test_errors_come_first():
    problems = [
        Problem("grayscale", "a.jpg", "grey"),
        Problem("rare-class", "class x", ""),
        Problem("no-area", "a.xml", ""),
    ]
    report, _ = report_of(problems)
    printed = text(report)
    assert next(iter(report.kinds)) == "no-area"
    assert printed.index("error: ") < printed.index("warning: ")
    assert printed.startswith(
        "set: 2 classes\n"
        "  train  1 image, 1 box\n"
        "1 error, 2 warnings\n"
        "\n"
        "error: boxes without area: 1\n"
        "  train: a.xml\n"
    )


def test_the_number_of_examples_is_limited(tmp_path):
    paths = [str(tmp_path / f"{n}.png") for n in range(4)]
    for path in paths:
        write_image(tmp_path / path, (60, 80))
    report, splits = report_of([Problem("grayscale", path, "", path) for path in paths])
    assert [page(report, splits, examples).count("<img ") for examples in (0, 2, 9)] == [0, 2, 4]


def test_names_are_escaped_in_the_page():
    name = '</li><script>alert("1")</script>&amp;'
    problems = [
        Problem("no-area", f"/set/{name}.xml", name),
        Problem("broken-image", name, name, "/none/" + name),
    ]
    report, splits = report_of(problems)
    html = page(LintReport(name, report.findings, report.statistics, {"val": name}), splits, 6)
    assert "<script" not in html
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;amp;" in html


def test_table_lines():
    lines = list(table_lines("title", {"train": {"a": 1000, "bb": 1}, "val": {"bb": 499, "c": 0}}))
    assert lines == [
        "title",
        "         train       val",
        f"  a      1,000         0  {'#' * 30}",
        f"  bb         1       499  {'#' * 15}",
        "  c          0         0",
    ]
