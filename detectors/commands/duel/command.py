"""Trains detectors under one budget, evaluates them alike and compares them: detectors duel [shapes].

    detectors duel                                   the demo's two detectors on generated shapes, 3 seeds
    detectors duel bccd trainer.steps=2000 model.width=0.25 --models yolov2_tiny ssd300
    detectors duel --jobs 2                          two runs at a time
    detectors duel --budget flops                    equally many FLOPs, in place of equally many images

All runs have the same settings but for model and seed, and what gives them an equal budget; runs of one seed
see the images in the same order. Called again, it goes on where it was stopped: finished runs stay, others
resume.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from detectors.commands.compare import command as compare
from detectors.commands.compare.fairness import PROTOCOL_SETTINGS
from detectors.commands.duel.duel_budgets import budget_settings
from detectors.commands.duel.duel_runs import DuelRun, run_all
from detectors.commands.duel.options import options
from detectors.config.composing import output_folder
from detectors.config.entry import verb
from detectors.data.files import write_json
from detectors.training.run_files import read_record

PLAN = "duel.json"


@verb
def main(arguments: list[str] | None = None) -> None:
    args = options(arguments)
    folder = args.output or output_folder() / "duel" / args.data
    common = common_settings(args)
    lengths = budget_settings(args.budget, args.models, (f"data={args.data}", *common))
    jobs = [
        DuelRun(
            folder / f"{model}_seed{seed}",
            train=(f"data={args.data}", f"model={model}", f"seed={seed}", *common, *lengths[model]),
            evaluate=(*PROTOCOL_SETTINGS, f"split={args.split}", f"threads={args.threads}"),
        )
        for seed in args.seeds
        for model in args.models
    ]
    keep_plan(folder, {job.folder.name: list(job.train) for job in jobs})
    failed = run_all(jobs, args.jobs)
    done = [job for job in jobs if job not in failed]
    if len(done) > 1:
        places = [str(job.folder) for job in done]
        alike = ("--split", args.split, "--budget", args.budget, "--threads", str(args.threads))
        compare.main([*places, *alike, "--output", str(folder / "comparison")])
    if failed:
        listed = ", ".join(str(job.folder / "duel.log") for job in failed)
        raise ValueError(
            f"{len(failed)} of {len(jobs)} runs failed, see {listed}; call the duel again to go on"
        )


def common_settings(args: argparse.Namespace) -> tuple[str, ...]:
    """Settings of all runs. resize=stretch, unless given: the input handling of both must be the same."""
    own = tuple(args.overrides)
    resize = () if any(text.startswith("input.resize=") for text in own) else ("input.resize=stretch",)
    return (*resize, f"trainer.threads={args.threads}", *own)


def keep_plan(folder: Path, plan: dict[str, list[str]]) -> None:
    """Notes the settings of a duel's runs. ValueError if the folder holds a duel with others."""
    path = folder / PLAN
    if path.exists():
        before = read_record(path, f"remove {folder}, or choose another --output")
        changed = [name for name in plan if before.get(name, plan[name]) != plan[name]]
        if changed:
            settings = " ".join(map(str, before[changed[0]]))
            raise ValueError(
                f"{folder}: its runs have other settings ({changed[0]}: {settings}); "
                "choose another --output, or remove it"
            )
        plan = before | plan
    write_json(path, plan)
