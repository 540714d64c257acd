"""train.log: what the terminal showed, and the lines that a progress bar replaces there.

conf/hydra/job_logging/readable.yaml sends the messages of every logger to the terminal and to the file.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from detectors.config.entry import USER_ERRORS, message

logger = logging.getLogger(__name__)
LOG_FILE = logging.getLogger("detectors.log_file")  # reaches train.log alone, not the terminal


class _Lasting:
    """A handler that cannot write says so once, where logging would print a traceback for each message."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.failed:
            self.failed = True
            place = getattr(self, "baseFilename", "the output")
            problem = message(sys.exc_info()[1])
            with suppress(OSError):
                sys.stderr.write(f"{place} cannot be written ({problem}); the run goes on without it\n")


class LogFile(_Lasting, logging.FileHandler):
    """For train.log."""


class Screen(_Lasting, logging.StreamHandler):
    """For the terminal."""


def shows_bar(progress: bool) -> bool:
    """Whether a progress bar can be shown: if the settings want one and all output goes to a terminal."""
    return progress and sys.stdout.isatty() and sys.stderr.isatty()


def log_progress(line: str, progress: bool) -> None:
    """A line about how the run goes; only train.log gets it where a bar is shown. progress: see shows_bar."""
    (LOG_FILE if shows_bar(progress) else logger).info(line)


@contextmanager
def errors_in_log() -> Iterator[None]:
    """Copies Python's warnings, and the error that ends a run, into train.log.

    The terminal gets the warnings as always, and the error from config/entry.py.
    """
    show = warnings.showwarning

    def show_and_log(text, category, filename, lineno, file=None, line=None):
        show(text, category, filename, lineno, file, line)
        LOG_FILE.warning(warnings.formatwarning(text, category, filename, lineno, line).rstrip())

    warnings.showwarning = show_and_log
    try:
        yield
    except USER_ERRORS as error:
        LOG_FILE.error("error: %s", message(error))
        raise
    except KeyboardInterrupt as stop:
        LOG_FILE.error(str(stop) or "stopped at once by Ctrl-C")
        raise
    except Exception:
        LOG_FILE.exception("the run ended because of a fault in the program")
        raise
    finally:
        warnings.showwarning = show
