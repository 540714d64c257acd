"""Trains a detector: python train.py [overrides]. On a CPU in seconds: python train.py debug=fast. With no override: the demo's YOLOv2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from detectors.annotations import Annotations
from detectors.config.build import build
from detectors.config.check import check
from detectors.config.entry import entry_point
from detectors.config.schema import INSTALLED, PACKAGE, Config, to_plain, to_yaml
from detectors.data.checks import settled
from detectors.data.suspicious_boxes import remark
from detectors.training import assemble, engine
from detectors.training import checkpoint as ckpt
from detectors.training.tracking import Tracker

HARMLESS = (
    "root",
    "cache",
    "workers",
    "prefetch",
    "image_cache",
)  # settings of `data` that change nothing about what is learned


@entry_point("train")
def main(cfg: DictConfig) -> float | None:
    """Returns COCO's AP of the last evaluation, so that a sweep can optimise it."""
    stored = (
        ckpt.load_checkpoint(ckpt.find_checkpoint(cfg.trainer.resume, ckpt.LAST))
        if cfg.trainer.resume
        else None
    )
    config = check(cfg) if stored is None else resumed_config(stored, list(HydraConfig.get().overrides.task))
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    run = build_run(config, Path(HydraConfig.get().runtime.output_dir), stored)
    try:
        result = engine.train(run)
        run.tracker.hparams(to_plain(config), [f"val/{name}" for name in ("AP", "AP50_voc07", "AP50_voc10")])
    except KeyboardInterrupt as stop:
        print(stop, file=sys.stderr)
        raise SystemExit(130) from stop
    finally:
        run.tracker.close()
    table = result.table() if result.images else "no evaluation: data.val is empty"
    print(f"{left_out(run)}{table}\nrun folder: {run.folder}")
    return result.scalars[engine.METRIC]


def resumed_config(stored: ckpt.Checkpoint, overrides: list[str]) -> Config:
    """The configuration in the checkpoint; only what does not change what is learned may be given anew."""
    changes = [change for change in overrides if not change.lstrip("+").startswith("trainer.resume=")]
    for change in changes:
        if change.lstrip("+").startswith("trainer.init_from="):
            raise ValueError(
                f"{change}: a resumed run goes on with the weights of {stored.path}; trainer.init_from is for a new run"
            )
        if not change.lstrip("+").startswith(("trainer.", "paths.", *(f"data.{name}=" for name in HARMLESS))):
            raise ValueError(
                f"{change}: a resumed run keeps the configuration of {stored.path}; "
                f"only trainer.* and data.{{{','.join(HARMLESS)}}} may change"
            )
    return check(
        OmegaConf.merge(stored.config, OmegaConf.from_dotlist([change.lstrip("+") for change in changes]))
    )


def build_run(config: Config, folder: Path, stored: ckpt.Checkpoint | None) -> engine.Run:
    device = assemble.choose_device(config.trainer.device)
    origin = (
        assemble.initial_weights(config.trainer.init_from)
        if config.trainer.init_from and stored is None
        else None
    )
    annotations, val_annotations = read_data(config, stored and stored.class_names)
    detector = assemble.build_detector(config, len(annotations.class_names)).to(device)
    if stored is not None:
        assemble.load_state(detector, stored)
    elif origin is not None:
        print(*assemble.start_from(detector, origin, config, annotations.class_names), sep="\n")
    run = engine.Run(
        config=config,
        folder=folder,
        detector=detector,
        optimizer=build(config.optimizer, detector),
        train_loader=assemble.train_loader(config, annotations, start_step=stored.step if stored else 0),
        val_loader=assemble.eval_loader(
            config,
            val_annotations,
            batch_size=config.trainer.eval_batch_size,
            repeated=config.trainer.eval_every > 0,
        ),
        val_annotations=val_annotations,
        tracker=Tracker(folder, purge_step=stored.step + 1 if stored else None),
        device=device,
    )
    if stored is not None:
        engine.restore(run, stored)
    run.tracker.text("run/config", to_yaml(config), run.progress.step)
    run.tracker.text("run/commit", commit(), run.progress.step)
    describe(run, annotations)
    return run


def left_out(run: engine.Run) -> str:
    """A line for each split of which images could not be used."""
    loaders = {"training": run.train_loader, "validation": run.val_loader}
    return "".join(
        f"{split} images left out, named above: {it.summary()}\n"
        for split, it in loaders.items()
        if it.problems
    )


def read_data(config: Config, class_names: Sequence[str] | None = None) -> list[Annotations]:
    """The truths to train on and to evaluate on. One line says what was left out of them and which boxes are suspicious, if any are.

    class_names: those of the run that is resumed. Where data.val is empty, there is nothing to evaluate on.
    """
    scanned, found = {}, []
    for split in ("train", "val") if config.data.val else ("train",):
        scanned[split] = assemble.scan_annotations(config.data, split, class_names)
        found.append(settled(scanned[split], config.data.on_error))
        class_names = found[-1].class_names
    if line := remark(scanned, size=tuple(config.input.size), resize=config.input.resize):
        print(line, flush=True)
    return found if config.data.val else [*found, Annotations.without_images(class_names)]


def commit() -> str:
    """The git commit of this code, and whether files differ from it; "unknown" outside of a git checkout."""
    command = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=12"]
    if INSTALLED:
        return "unknown"  # whatever repository the package was installed into, it is not this code's
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def describe(run: engine.Run, annotations) -> None:
    """What is about to happen, with the numbers that follow from the configuration."""
    config, grid = run.config, run.detector.grid(run.config.input.size)
    levels = ", ".join(f"{level.rows}x{level.columns}x{level.per_location}" for level in grid.levels)
    trainer, gflops = config.trainer, run.detector.flops(config.input.size) / 1e9
    seen = len(set(annotations.paths) & set(run.val_annotations.paths))
    seen_note = f" ({seen} of them are training images, too, on which AP says nothing)" if seen else ""
    print(
        f"{config.name}: {run.detector.parameter_count:,} parameters, {gflops:.2f} GFLOPs at {config.input.size}, "
        f"{grid.num_anchors} anchors ({levels})\n"
        f"{config.data.name}: {len(annotations)} training images with {len(annotations.labels)} boxes of {len(annotations.class_names)} "
        f"classes, {len(run.val_annotations)} validation images{seen_note}\n"
        f"step {run.progress.step} to {trainer.steps}, {trainer.batch_size * trainer.accumulate} images a step, on {run.device}\n"
        f"curves: tensorboard --logdir {run.folder}",
        flush=True,  # into a pipe or a log, too, it must stand there before the training and not after it
    )


if __name__ == "__main__":
    main()
