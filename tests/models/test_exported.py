"""Files that are no exported networks are refused with one line."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import parser

from detectors.models.exported import metadata_problem, open_exported

GOOD = {
    "format": 1,
    "task": "detection",
    "class_names": ["cat"],
    "outputs": ["image", "boxes", "scores", "labels"],
    "size": [160, 160],
    "resize": "letterbox",
    "with_boxes": True,
    "score_threshold": 0.01,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", 2),
        ("task", None),
        ("class_names", "cat"),
        ("class_names", [1]),
        ("size", [160]),
        ("size", [160, 0]),
        ("size", [True, True]),
        ("resize", "bend"),
        ("with_boxes", 1),
        ("score_threshold", "0.01"),
        ("outputs", {}),
    ],
)
def test_metadata_are_checked(name, value):
    assert metadata_problem(GOOD) is None
    assert name in metadata_problem(GOOD | {name: value})


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.onnx: no such exported file"):
        open_exported(tmp_path / "x.onnx")
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x\.bin: exported files end in \.onnx, \.pt2, \.torchscript"):
        open_exported(tmp_path / "x.bin")
    for suffix in (".onnx", ".pt2", ".torchscript"):
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(b"no network\n" * 20)
        with pytest.raises(ValueError, match=rf"broken\{suffix}: cannot be read as an exported file"):
            open_exported(path)


def test_other_programs_networks_are_refused(tmp_path):
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[1] x) => (float[1] y) { y = Identity (x) }'
    onnx.save(parser.parse_model(text), tmp_path / "x.onnx")
    torch.jit.trace(torch.nn.Identity(), (torch.zeros(1),)).save(str(tmp_path / "x.torchscript"))
    for suffix in (".onnx", ".torchscript"):
        with pytest.raises(ValueError, match="only files that detectors export wrote can be used"):
            open_exported(tmp_path / f"x{suffix}")
