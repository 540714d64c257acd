"""Output that outlives its reader: after `| head`, a command does the rest of its work in silence."""

from __future__ import annotations

import io
import os
import sys


class LastingFile(io.FileIO):
    """A file descriptor to write to, which is pointed at the null device once its reader has gone."""

    def write(self, data) -> int | None:
        try:
            return super().write(data)
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(data).nbytes


def outlive_readers() -> None:
    """Makes stdout and stderr lasting. Streams that somebody has replaced, as pytest does, stay."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue
        stream.flush()
        lasting = io.TextIOWrapper(
            io.BufferedWriter(LastingFile(stream.fileno(), "wb", closefd=False)),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
        )
        setattr(sys, name, lasting)
