"""What MkDocs calls while it builds the site (.mkdocs.yml): it draws pictures, and reads docstrings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # MkDocs loads this file by its path
from docs.docstrings import expanded
from docs.pictures.anchor_shapes import anchor_clusters, anchor_decoding
from docs.pictures.canvas import svg
from docs.pictures.duplicates import suppression
from docs.pictures.fields import detector_fields, field_growth
from docs.pictures.matches import matching, matching_levels
from docs.pictures.normalisation import norm_depth, norm_running
from docs.pictures.overlap import iou_pairs, iou_shifts
from docs.pictures.precision import precision_recall
from docs.pictures.region_terms import region_gradients, region_roles
from docs.pictures.ssd_boxes import default_box_levels, default_box_scales
from docs.pictures.tiles import tiles_and_labels

FIGURES = (
    iou_pairs,
    iou_shifts,
    precision_recall,
    anchor_clusters,
    anchor_decoding,
    matching,
    matching_levels,
    suppression,
    field_growth,
    norm_depth,
    norm_running,
    region_roles,
    region_gradients,
    default_box_levels,
    default_box_scales,
)
PICTURES: dict[str, Callable[[], bytes]] = {
    **{f"{figure.__name__}.svg": lambda figure=figure: svg(figure()) for figure in FIGURES},
    **{f"field_{name}.jpg": partial(detector_fields, name) for name in ("yolov2_160", "ssd160")},
    "tiles_and_labels.jpg": tiles_and_labels,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, drawn in PICTURES.items():
        files.append(File.generated(config, f"pictures/{name}", content=drawn()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    return expanded(markdown) if page.file.src_uri == "reference.md" else markdown
