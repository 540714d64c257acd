"""Writes a network to a file: detectors export RUN_OR_MODEL --to onnx|torch_export|torchscript [--with-boxes]

The file is compared with the network before it gets its name. docs/export.md says what is in it and how to
run it.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from detectors.commands.export.export_sources import ExportSource, export_metadata, export_source
from detectors.commands.export.file_writers import new_file, write_program, write_script
from detectors.commands.export.options import options
from detectors.commands.export.traced_modules import ScoredBoxes, SuppressedBoxes, traced_module
from detectors.commands.export.verification import verified
from detectors.config.entry import verb
from detectors.models.exported import ONNX_SUFFIX, PROGRAM_SUFFIX, SCRIPT_SUFFIX

SUFFIXES_OF_KINDS = {"onnx": ONNX_SUFFIX, "torch_export": PROGRAM_SUFFIX, "torchscript": SCRIPT_SUFFIX}
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


@verb
def main(arguments: list[str] | None = None) -> None:
    args = options(arguments)
    suffix = SUFFIXES_OF_KINDS[args.kind]
    if args.output and args.output.suffix != suffix:
        raise ValueError(f"--output {args.output}: must end in {suffix} for --to {args.kind}")
    if args.kind == "onnx" and (absent := [name for name in ONNX_PACKAGES if find_spec(name) is None]):
        raise ValueError(f"--to onnx: not installed: {', '.join(absent)}; pip install 'detectors[export]'")
    source = export_source(args)
    name = f"{source.stem}{'_boxes' if args.with_boxes else ''}{suffix}"
    target = args.output or source.folder / name
    if args.kind != "onnx":
        export_for_torch(source, target, args)
        return
    from detectors.commands.export.onnx_export import export_onnx  # imports onnx, of the extra `export`

    export_onnx(source, target, args)


def export_for_torch(source: ExportSource, target: Path, args: argparse.Namespace) -> None:
    """Writes torch.export's or TorchScript's file, and prints what was compared."""
    module = traced_module(source.network, source.size, with_boxes=args.with_boxes)
    if isinstance(module, ScoredBoxes):
        module = SuppressedBoxes(module).eval()
    metadata = export_metadata(source, outputs=module.outputs, with_boxes=args.with_boxes)
    write = write_program if args.kind == "torch_export" else write_script
    with new_file(target) as draft:
        write(module, source.size, draft, metadata)
        verified(source.network, draft)
    print(f"written: {target} ({args.kind})")


if __name__ == "__main__":
    main()
