"""docs/evaluation.md: its commands are valid, and its table has the rows that evaluators=all prints."""

from __future__ import annotations

import re
import shlex

import pytest

from detectors.commands.compare.options import options
from detectors.config.check import check
from detectors.config.schema import EvaluateConfig, prepared
from detectors.metrics.report import report
from detectors.metrics.variants import ap_variants
from tests.forked import PROJECT
from tests.metrics.test_coco_arrays import random_case
from tests.test_configs import composed

PAGE = (PROJECT / "docs" / "evaluation.md").read_text()
COMMANDS = [line for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command):
    program, verb, *rest = shlex.split(command)
    if program == "detectors":
        assert verb == "compare" and len(options(rest).runs) == 2
        return
    assert (program, verb) == ("python", "evaluate.py")
    settings = check(composed(*prepared(rest, "evaluate"), config_name="evaluate"), EvaluateConfig)
    assert (settings.run is None) != (settings.detections is None)


def test_rows():
    annotations, detections = random_case(0)
    scalars = report(annotations, detections).scalars
    rows = ap_variants(annotations, detections, scalars, unclipped=detections)
    listed = re.findall(r"^\| ([^|]*) \| \.\d{4} \|", PAGE, re.MULTILINE)
    assert [*listed, "boxes not clipped to the image"] == [row.differs for row in rows]
