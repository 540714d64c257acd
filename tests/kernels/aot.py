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
    """One version of a kernel. `types` and `constants` may hold arguments of other kernels, too."""

    kernel: str  # "module:function"
    types: dict[str, str]  # argument -> Triton's type: "*fp32", "*i64", "*i1", "i32", "fp32", ...
    constants: dict[str, Any] = field(default_factory=dict)  # tl.constexpr arguments
    warps: int = 4
    capability: int = 90  # 80: A100, 90: H100, H200
    options: dict[str, Any] = field(default_factory=dict)  # further ones of the launch


@dataclass(frozen=True)
class Resources:
    """Of one program."""

    registers: int  # of a thread; 255 at most
    stack: int  # bytes of a thread that do not fit into registers: spills
    shared: int  # bytes of shared memory of a program
    multiply_adds: int  # fused ones in float32, which round once


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
    names = kernel.arg_names
    signature = {name: "constexpr" if name in build.constants else build.types[name] for name in names}
    constants = {(names.index(name),): value for name, value in build.constants.items() if name in names}
    result = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants),
        target=GPUTarget("cuda", build.capability, 32),
        options={"num_warps": build.warps} | build.options,
    )
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", text).groups()
    fused = result.asm["ptx"].count("fma.rn.f32")
    return Resources(int(registers), int(stack) + int(local), result.metadata.shared, fused)


if __name__ == "__main__":
    print(json.dumps([asdict(_compile(Build(**build))) for build in json.load(sys.stdin)]))
