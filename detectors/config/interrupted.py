"""Ctrl-C where a command has nothing to save: one line and status 130, the shell's number for it."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable

FULL_ERROR = "HYDRA_FULL_ERROR"  # set to 1: tracebacks in place of messages


def ends_at_interrupt(main: Callable[..., None]) -> Callable[..., None]:
    """Decorates main() of a program. With HYDRA_FULL_ERROR=1 the traceback is shown."""

    @functools.wraps(main)
    def guarded(*arguments) -> None:
        try:
            main(*arguments)
        except KeyboardInterrupt as stop:
            if os.environ.get(FULL_ERROR) == "1":
                raise
            sys.stderr.write(f"{stop if str(stop) else 'interrupted'}\n")
            raise SystemExit(130) from None

    return guarded
