"""What goes into train.log beside the terminal's lines: warnings, and the error that ended a run."""

from __future__ import annotations

import sys
import warnings

import pytest

from detectors.training.run_log import LOG_FILE, errors_in_log, log_progress, shows_bar


def test_warnings_are_shown_and_logged(caplog, monkeypatch):
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda text, *_: shown.append(str(text)))
    before = warnings.showwarning
    with errors_in_log():
        warnings.warn("look out", UserWarning, stacklevel=1)
    assert shown == ["look out"]
    assert warnings.showwarning is before
    assert [(record.name, record.levelname) for record in caplog.records] == [(LOG_FILE.name, "WARNING")]
    assert "UserWarning: look out" in caplog.text


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("data.root=x: no such folder"), "error: data.root=x: no such folder"),
        (FloatingPointError("step 3: the loss is not finite"), "error: step 3: the loss is not finite"),
        (KeyboardInterrupt("stopped after step 3"), "stopped after step 3"),
        (KeyboardInterrupt(), "stopped at once by Ctrl-C"),
        (ZeroDivisionError("by zero"), "the run ended because of a fault in the program"),
    ],
)
def test_the_error_that_ends_a_run_is_logged_and_passes(error, message, caplog):
    with pytest.raises(type(error)) as raised, errors_in_log():
        raise error
    assert raised.value is error
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == (LOG_FILE.name, message)
    assert bool(record.exc_info) is isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize("terminals", [(True, True), (True, False), (False, True), (False, False)])
def test_a_bar_takes_the_place_of_lines_where_all_output_goes_to_a_terminal(terminals, monkeypatch, caplog):
    caplog.set_level("INFO")
    for stream, is_terminal in zip(("stdout", "stderr"), terminals, strict=True):
        monkeypatch.setattr(getattr(sys, stream), "isatty", lambda answer=is_terminal: answer)
    assert shows_bar(True) is all(terminals)
    assert not shows_bar(False)
    log_progress("a line", True)
    log_progress("a line", False)
    names = [record.name for record in caplog.records]
    assert (names[0] == LOG_FILE.name, names[1] == LOG_FILE.name) == (all(terminals), False)
