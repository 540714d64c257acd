"""Compiles Triton kernels for a GPU on a machine without one, and reads which resources they need.

    build = Build("detectors.kernels.region_kernel:kernel", {"x": "*fp32", "n": "i32"}, {"BLOCK": 64})
    (resources,) = compiled([build])

It happens in another process, because Triton's interpreter is on in this one.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Build:
    """One version of a kernel. Its arguments are, in any order, those of `types` and of `constants`."""

    kernel: str  # "module:function"
    types: dict[str, str]  # argument -> Triton's type: "*fp32", "*i64", "*i1", "i32", "fp32", ...
    constants: dict[str, Any] = field(default_factory=dict)  # tl.constexpr arguments
    warps: int = 4
    capability: int = 90  # 80: A100, 90: H100, H200


@dataclass(frozen=True)
class Resources:
    """Of one program."""

    registers: int  # of a thread; 255 at most
    stack: int  # bytes of a thread that do not fit into registers: spills
    shared: int  # bytes of shared memory of a program


def compiled(builds: Sequence[Build]) -> list[Resources]:
    """What each build needs. AssertionError with the compiler's message if one cannot be compiled."""
    request = json.dumps([asdict(build) for build in builds])
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": cache}
        environment.pop("TRITON_INTERPRET", None)
        command = [sys.executable, "-m", "tests.kernels.aot"]
        done = subprocess.run(
            command, input=request, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    return [Resources(**resources) for resources in json.loads(done.stdout.splitlines()[-1])]


def _compile(build: Build) -> Resources:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, _, name = build.kernel.partition(":")
    kernel = getattr(importlib.import_module(module), name)
    signature = {argument: build.types.get(argument, "constexpr") for argument in kernel.arg_names}
    constants = {(kernel.arg_names.index(argument),): value for argument, value in build.constants.items()}
    result = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants),
        target=GPUTarget("cuda", build.capability, 32),
        options={"num_warps": build.warps},
    )
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", text).groups()
    return Resources(int(registers), int(stack) + int(local), result.metadata.shared)


if __name__ == "__main__":
    print(json.dumps([asdict(_compile(Build(**build))) for build in json.load(sys.stdin)]))
