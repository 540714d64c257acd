"""docs/evaluation.md: its table has the rows that evaluators=all prints."""

from __future__ import annotations

import re

from detectors.metrics.report import report
from detectors.metrics.variants import ap_variants
from tests.forked import PROJECT
from tests.metrics.test_coco_arrays import random_case

PAGE = (PROJECT / "docs" / "evaluation.md").read_text()


def test_rows():
    annotations, detections = random_case(0)
    scalars = report(annotations, detections).scalars
    rows = ap_variants(annotations, detections, scalars, unclipped=detections)
    listed = re.findall(r"^\| ([^|]*) \| \.\d{4} \|", PAGE, re.MULTILINE)
    assert [*listed, "boxes not clipped to the image"] == [row.differs for row in rows]
