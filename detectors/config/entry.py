"""The entry points of all commands: every error that the user can fix is one message without a traceback."""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError
from yaml import YAMLError

from detectors.config.build import builder_keywords, describe_type, trust
from detectors.config.check import checked_settings
from detectors.config.composing import HYDRA_PROGRAMS, prepared
from detectors.config.fresh_folder import remove_if_fresh
from detectors.config.interrupted import FULL_ERROR, ends_at_interrupt
from detectors.config.lasting_output import outlive_readers
from detectors.config.launched import leave_the_word_to_the_first, overrides_of_rank
from detectors.config.multirun import job_table, record_job, recorded_jobs
from detectors.config.schema import AUTO, CONF, HINTS
from detectors.config.yaml_text import encoding_problem
from detectors.data.suggestions import did_you_mean
from detectors.tables import printable

# Errors the user can fix. Any other is a fault of this code and keeps its traceback.
USER_ERRORS = (
    HydraException,
    OmegaConfBaseException,
    YAMLError,
    ValueError,
    OSError,  # no such file, no permission, a full disk
    FloatingPointError,
)
LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm")  # of packages that need not be installed
ENDS = "\n\t"  # control characters of our own messages


def program(name: str, task: str) -> Callable[[], None]:
    """The Hydra application of conf/NAME.yaml. task: module.function of what it does with the settings.

    Its module imports PyTorch, which takes seconds. So --help is answered without it, and the settings are
    checked before it is imported; those that a resumed run takes from its checkpoint are the task's own.
    """

    def run(cfg: DictConfig) -> Any:
        trust(cfg.builders)
        if name != "train" or cfg.trainer.resume in (None, AUTO):
            checked_settings(cfg, HYDRA_PROGRAMS[name].schema)
        module, _, function = task.rpartition(".")
        return getattr(import_module(module), function)(cfg)

    return entry_point(name)(run)


def entry_point(
    config_name: str, *, config_path: str = str(CONF)
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Decorates `task(cfg)` as a Hydra application. config_path: the folder of the yaml files.

    A mistake in the configuration and a missing or faulty file end the process with status 2 and one message
    on stderr. HYDRA_FULL_ERROR=1 shows the traceback instead.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        full = os.environ.get(FULL_ERROR) == "1"
        application = hydra.main(version_base="1.3", config_path=config_path, config_name=config_name)
        main = _with_arguments(application(task if full else _inside(task)), config_name)
        return main if full else ends_at_interrupt(_outside(main))

    return decorate


def _with_arguments(main: Callable[[], None], program: str) -> Callable[[], None]:
    """Prepares the command line before Hydra reads it."""

    @functools.wraps(main)
    def with_arguments() -> None:
        outlive_readers()
        arguments = sys.argv[1:]
        sys.argv = [sys.argv[0], *prepared(arguments, program), *overrides_of_rank(program, arguments)]
        main()

    return with_arguments


def _inside(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Reports an error of a single run before Hydra adds lines of its own."""

    @functools.wraps(task)  # Hydra finds config_path through __wrapped__
    def guarded(cfg: DictConfig) -> Any:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return _job(task, cfg)
        try:
            return task(cfg)
        except (KeyboardInterrupt, *USER_ERRORS) as error:
            _remove_if_refused()
            if isinstance(error, KeyboardInterrupt):
                raise
            _report(error)

    return guarded


def _job(task: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """One job of a multirun, recorded. An error is shown at once and passes as a RuntimeError, which other
    processes can read, too: Hydra counts the job as failed and goes on with the others.
    """
    try:
        value = task(cfg)
    except Exception as error:
        if isinstance(error, USER_ERRORS):
            _remove_if_refused()
            text = printable(message(error), keep=ENDS)
            _tell(f"error: {text}\n")
        else:
            text = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        record_job({"error": text})
        raise RuntimeError(text) from error
    record_job({"value": value})
    return value


def _remove_if_refused() -> None:
    config = HydraConfig.get()
    remove_if_fresh(Path(config.runtime.output_dir), f"{config.job.name}.log")


def _outside(main: Callable[[], None]) -> Callable[[], None]:
    """Reports errors of composition, which happens before the task, and the failed jobs of a multirun.

    Hydra would print the first one itself and exit; with HYDRA_FULL_ERROR=1 it raises it.
    """

    @functools.wraps(main)
    def guarded() -> None:
        before = os.environ.get(FULL_ERROR, "0")
        os.environ[FULL_ERROR] = "1"
        try:
            main()
        except Exception as error:
            jobs = recorded_jobs()
            if any("error" in job for job in jobs):
                print(*job_table(jobs), sep="\n", file=sys.stderr)
                raise SystemExit(2) from None
            if isinstance(error, USER_ERRORS):
                _report(error)
            raise
        finally:
            os.environ[FULL_ERROR] = before

    return guarded


def verb(main: Callable[..., None]) -> Callable[..., None]:
    """Decorates main() of a verb: an error that the user can fix gives one message and status 2."""

    @functools.wraps(main)
    def guarded(arguments: list[str] | None = None) -> None:
        try:
            main(arguments)
        except USER_ERRORS as error:
            if os.environ.get(FULL_ERROR) == "1":
                raise
            _report(error)

    return guarded


def require_at_least(options: argparse.Namespace, **least: int) -> None:
    """ValueError for an option below its least value. An option that was not given, so None, passes."""
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise ValueError(f"--{name.replace('_', '-')} {value}: must be {low} or more")


def _report(error: Exception) -> None:
    leave_the_word_to_the_first()
    text = printable(message(error), keep=ENDS)
    _tell(f"error: {text}\n({FULL_ERROR}=1 shows where in the code this came up)\n")
    raise SystemExit(2)


def _tell(text: str) -> None:
    """Writes to stderr behind what stdout has been given: into a file, that may still be in its buffer."""
    with suppress(OSError):
        sys.stdout.flush()
    sys.stderr.write(text)


def message(error: Exception) -> str:
    """What is wrong, where, and the fix, in one or a few lines."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_config(error)
    encoding = encoding_problem(error, _config_folders(), _source(error).removesuffix(": "))
    if encoding is not None:
        return encoding
    if isinstance(error, OverrideParseException):
        what = [line for line in error.message.splitlines() if line and not line.startswith("See ")][-1]
        if what.strip() == "^":  # it points at a character of a line before
            what = "it has a character that must be quoted"
        key, _, value = error.override.partition("=")
        fix = f"'{key}=\"{value}\"'" if value and not set("'\"") & set(value) else "'key=\"a b\"'"
        return f"{error.override}: not of the form group.key=value ({what}); quote special characters: {fix}"
    cause = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__ or cause.__context__
    if (
        isinstance(cause, ConfigAttributeError | ConfigKeyError)
        and cause.key is not None
        and cause.parent_node is not None
    ):
        return _unknown_key(error, cause)
    if isinstance(cause, ValidationError) and cause.full_key:
        return _wrong_type(error, cause)
    if cause is not None and cause.full_key:
        return f"{_source(error)}{cause.full_key}: {(cause.msg or str(cause)).splitlines()[0]}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or f"{type(error).__name__}, without a message"


def _missing_config(error: MissingConfigException) -> str:
    """model=ssd30 -> the closest file of conf/model/."""
    group, _, name = error.missing_cfg_file.rpartition("/")
    if not error.options:
        return (
            f"{error.missing_cfg_file}: there is no such file or group in the configuration; "
            "`--help` lists them"
        )
    listed = ", ".join(error.options)
    if group == "hydra/launcher" and name in LAUNCHERS:
        hint = f"; it comes with: pip install 'detectors[{name.partition('_')[0]}]'"
    else:
        hint = did_you_mean(name, error.options)
    return f"{group}={name}: there is no such choice{hint}\n  choices of {group}: {listed}"


def _unknown_key(error: Exception, cause: OmegaConfBaseException) -> str:
    """trainer.stpes=3 -> the closest setting of that group, as its dataclass or its builder has it."""
    names = [str(name) for name in cause.parent_node]
    place = cause.full_key or str(cause.key)
    fix = (
        did_you_mean(str(cause.key), names, listed=True, place=place.rpartition(".")[0])
        if names
        else f"; to put it there: +{place}=..."
    )
    if "_target_" in names and str(cause.key) in builder_keywords(cause.parent_node["_target_"]):
        fix = f"; {cause.parent_node['_target_']} knows it, so add it with +{place}=..."
    return f"{_source(error)}{_typed(error, place)}: there is no such setting{fix}"


def _wrong_type(error: Exception, cause: ValidationError) -> str:
    """trainer.steps=abc -> what the dataclass wants there."""
    hint = HINTS.get(cause.full_key)
    what = cause.msg.splitlines()[0] if hint is None else f"must be {describe_type(hint)}"
    return f"{_source(error)}{_typed(error, cause.full_key)}: {what}"


def _typed(error: Exception, place: str) -> str:
    """'trainer.steps=3' where Hydra quotes the override that failed, as for those of the command line.

    Otherwise `place`, the dotted name at which it failed.
    """
    match = re.search(r"(?:override '?\+*|To append to your config use \+\+?)([\w./@]+)(=.*)", str(error))
    if match is None:
        return place
    return f"{match[1] if match[1].startswith(f'{place}.') else place}{match[2]}"


def _config_folders() -> list[Path]:
    """Where yaml files lie: conf/ and the folder of --config-dir, as the command line has it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    known, _ = parser.parse_known_args(sys.argv[1:])
    return [folder for folder in (known.config_dir, CONF) if folder is not None]


def _source(error: Exception) -> str:
    """Hydra names the yaml in its own message ("In 'experiment/x': ..."), if it was one."""
    match = re.match(r"In '([^']+)':", str(error))
    return f"{match[1]}.yaml: " if match else ""
