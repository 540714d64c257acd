"""Trains a detector or a classifier: python train.py [overrides].

On a CPU in seconds: python train.py debug=fast.
Without overrides it trains the demo's YOLOv2.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from detectors.annotations import Annotations
from detectors.config.build import build
from detectors.config.check import check
from detectors.config.fresh_folder import names_folder
from detectors.config.schema import AUTO, CLASSIFICATION, Config, to_yaml
from detectors.data.checks import settled
from detectors.data.suspicious_boxes import remark
from detectors.kernels.dispatch import set_kernels
from detectors.models.backbones import describe_backbone
from detectors.training import assemble, engine, ground_truth
from detectors.training import checkpoint as ckpt
from detectors.training.batch_size import with_found_batch
from detectors.training.budgets import check_stop_metric, ending, in_steps
from detectors.training.distributed import ALONE, Processes, joined, shared_detector
from detectors.training.ema import Ema
from detectors.training.freezing import freeze
from detectors.training.hooks import Hooks, users_hooks
from detectors.training.hparams import row_metrics, varied_settings
from detectors.training.initial.initial_weights import initial_weights, initialise
from detectors.training.joint_truth import refuse_labels_alone, taught_nodes
from detectors.training.kept_memory import keep_freed_memory
from detectors.training.memory_format import with_memory_format
from detectors.training.optim import group_rate_lines
from detectors.training.outcome import outcome
from detectors.training.precision import backend_switches, suited
from detectors.training.profiling import profiled
from detectors.training.progress import Recent, stopped_at_once
from detectors.training.provenance import commit, versions
from detectors.training.resuming import best_problem, continued_config, finished, resumed_config, stored_run
from detectors.training.run import Run
from detectors.training.run_checkpoints import sole_writer
from detectors.training.run_files import SUMMARY
from detectors.training.run_log import errors_in_log
from detectors.training.saving import restore
from detectors.training.tasks import task_class
from detectors.training.tracker_backends import open_tracker

STOPPED_EARLY = "stopped before the first step: nothing is lost, and there is nothing to save"
logger = logging.getLogger(__name__)


def main(cfg: DictConfig) -> float | None:
    """Returns the task's metric (COCO's AP, accuracy) of the last evaluation, so that a sweep can optimise
    it; None for a run that had finished before.
    """
    try:
        with errors_in_log(), joined() as processes:
            folder = processes.of_first(Path(HydraConfig.get().runtime.output_dir))
            with sole_writer(folder) if processes.first else nullcontext():
                with stopped_at_once(STOPPED_EARLY):
                    stored = shared_run(cfg.trainer.resume, folder, processes)
                    config = settled_config(cfg, stored)
                    hooks = users_hooks(config.trainer, cfg.trainer)
                if config.trainer.threads:
                    torch.set_num_threads(config.trainer.threads)
                return train_run(config, folder, stored, hooks, processes)
    except KeyboardInterrupt as stop:
        print(stop, file=sys.stderr)
        raise SystemExit(130) from stop


def shared_run(resume: str | None, folder: Path, processes: Processes) -> ckpt.Checkpoint | None:
    """The checkpoint that trainer.resume names, which the first process chooses; None for a new run."""
    with processes.together():
        if resume == AUTO and processes.first and not names_folder(HydraConfig.get()):
            raise ValueError(
                "trainer.resume=auto goes on in the run's own folder: name it, hydra.run.dir=FOLDER"
            )
        stored = stored_run(resume, folder) if processes.first else None
    path = processes.of_first(stored and stored.path)
    with processes.together():
        stored = stored if processes.first or path is None else ckpt.load_checkpoint(path)
    if stored is not None and (problem := best_problem(stored)):
        logger.warning(problem)
    return stored


def settled_config(cfg: DictConfig, stored: ckpt.Checkpoint | None) -> Config:
    """The checked settings of a new or a resumed run."""
    if stored is not None and cfg.trainer.resume != AUTO:
        return resumed_config(stored, list(HydraConfig.get().overrides.task))
    config = check(cfg)
    config.trainer.resume = None  # what is stored with the run does not depend on how it was started
    return config if stored is None else continued_config(stored, config)


def train_run(
    config: Config,
    folder: Path,
    stored: ckpt.Checkpoint | None,
    hooks: Hooks | None = None,
    processes: Processes = ALONE,
) -> float | None:
    """Trains a new or a resumed run in `folder`, see main. A finished run is left as it is."""
    set_kernels(config.trainer.kernels)
    data = None
    trainer = config.trainer
    if trainer.device == "cpu" or not torch.cuda.is_available():
        keep_freed_memory()
    if trainer.epochs is not None or trainer.find_batch_size or trainer.memory_format == AUTO:
        with stopped_at_once(STOPPED_EARLY), processes.together():
            data = read_data(config, stored and stored.class_names)
            config = with_found_batch(config, data[0], processes)
            config = in_steps(config, len(data[0]), processes)
    if stored is not None and (ended := finished(stored, config)):
        logger.info(
            f"{stored.path}: finished, it is at step {stored.step} and {ended.reason}; "
            f"to train on: {ended.to_go_on}; its numbers: {folder / SUMMARY}"
        )
        return None
    if config.trainer.memory_format == AUTO:
        with stopped_at_once(STOPPED_EARLY):
            config = with_memory_format(config, len(data[0].class_names), processes)
    with stopped_at_once(STOPPED_EARLY), processes.together():
        run = build_run(config, folder, stored, processes, data)
    run.hooks = hooks or run.hooks
    evaluation = None
    try:
        with backend_switches(config.trainer), profiled(run):
            evaluation = engine.train(run)
    finally:
        run.tracker.close(finished=evaluation is not None)
    if run.progress.step < config.trainer.steps:
        logger.info(f"ended after step {run.progress.step}: {ending(config.trainer, run.progress).reason}")
    logger.info(f"{left_out(run)}{outcome(run, evaluation)}\nrun folder: {run.folder}")
    return evaluation.scalars[run.task.metric]


def build_run(
    config: Config,
    folder: Path,
    stored: ckpt.Checkpoint | None,
    processes: Processes = ALONE,
    data: list[Annotations] | None = None,
) -> Run:
    """All parts of a training, in their state at step 0 or at the stored step.

    Says what is about to happen. data: what read_data gives, if it was read before.
    """
    check_stop_metric(config.trainer)
    first_step = stored.step + 1 if stored else 0
    device = assemble.choose_device(config.trainer.device, processes)
    origin = initial_weights(config.init.from_) if stored is None else None
    annotations, val_annotations = data or read_data(config, stored and stored.class_names)
    detector = assemble.seeded_detector(config, len(annotations.class_names)).to(device)
    detector = shared_detector(detector, config.trainer, processes)
    if stored is not None:
        assemble.load_state(detector, stored.model, stored.path)
    elif lines := initialise(detector, origin, config, annotations.class_names):
        logger.info("\n".join(lines))
    freeze(detector, config.trainer.freeze)
    val_loader = assemble.eval_loader(
        config,
        val_annotations,
        batch_size=config.trainer.eval_batch_size,
        repeated=config.trainer.eval_every > 0,
        processes=processes,
    )
    decay = config.trainer.ema_decay
    ema = None if decay is None else Ema(detector, decay)
    run = Run(
        config=config,
        folder=folder,
        task=task_class(config)(
            detector,
            config=config,
            device=device,
            val_loader=val_loader,
            val_annotations=val_annotations,
            processes=processes,
            averaged=ema and ema.module,
            tree=taught_nodes(config.data, annotations),
        ),
        optimizer=suited(build(config.optimizer, detector), config.trainer.precision, device),
        train_loader=assemble.train_loader(
            config,
            annotations,
            start_step=stored.step if stored else 0,
            start_image=stored.progress.get("images_seen") if stored else 0,
            processes=processes,
        ),
        device=device,
        recent=Recent(processes.mean),
        processes=processes,
        ema=ema,
    )
    if stored is not None:
        restore(run, stored)
    if processes.first:
        run.tracker = open_tracker(config, folder, run.progress if stored else None)
    run.tracker.hparams(varied_settings(config, processes.world_size), row_metrics(run.task.headline))
    run.tracker.text("run/config", to_yaml(config), first_step)
    run.tracker.text("run/commit", commit(), first_step)
    run.tracker.text("run/versions", versions(device), first_step)
    describe_run(run, annotations)
    return run


def left_out(run: Run) -> str:
    """A line for each split with images that could not be used."""
    loaders = {"training": run.train_loader, "validation": run.task.val_loader}
    lines = [
        f"{split} images left out, named above: {it.summary()}\n"
        for split, it in loaders.items()
        if it.problems
    ]
    return "".join(lines)


def read_data(config: Config, class_names: Sequence[str] | None = None) -> list[Annotations]:
    """Ground truth to train on and to evaluate on; the second has no images if data.val is empty.

    Logs one line if boxes were left out or look suspicious. class_names: those of a resumed run.
    """
    scanned = {}
    annotations = []
    resumed = class_names is not None
    for split in ("train", "val") if config.data.val else ("train",):
        scanned[split] = ground_truth.scan_annotations(config.data, split, class_names)
        annotations.append(settled(scanned[split], config.data.on_error))
        class_names = annotations[-1].class_names
        if not len(annotations[-1].labels):
            effect = "nothing can be learned from it" if split == "train" else "it measures nothing"
            files = getattr(config.data, split)
            count = len(annotations[-1])
            logger.warning(f"data.{split}={files}: {count} images without a single box: {effect}")
    if not resumed:
        ground_truth.refuse_empty_classes(config.data, annotations[0])
    refuse_labels_alone(config.data, annotations[0], config.loss)
    detects = config.task != CLASSIFICATION
    if detects and (line := remark(scanned, size=tuple(config.input.size), resize=config.input.resize)):
        logger.info(line)
    return annotations if config.data.val else [*annotations, Annotations.without_images(class_names)]


def describe_run(run: Run, annotations: Annotations) -> None:
    """Says what is about to happen, with the numbers that follow from the configuration."""
    config = run.config
    trainer = config.trainer
    module = run.task.module
    of_network, of_images = run.task.described(annotations)
    val_paths = run.task.val_annotations.paths
    trained_on = set(annotations.paths)
    shared = sum(path in trained_on for path in val_paths)
    note = (
        f" ({shared} of them are training images, too, on which {run.task.metric} says nothing)"
        if shared
        else ""
    )
    count = sum(parameter.numel() for parameter in module.parameters())
    trained = f", of which {module.parameter_count:,} train" if trainer.freeze else ""
    rates = "\n".join(["", *group_rate_lines(run.optimizer)]) if config.optimizer.get("rates") else ""
    average = f"; evaluated are averaged weights (trainer.ema_decay={trainer.ema_decay})" if run.ema else ""
    backbone = "".join(f"{line}\n" for line in describe_backbone(module))
    logger.info(
        f"{config.name}: {count:,} parameters{trained}, {run.task.gflops:.2f} GFLOPs at "
        f"{config.input.size}, {of_network}\n"
        f"{config.data.name}: {len(annotations)} training images {of_images}, "
        f"{len(val_paths)} validation images{note}\n"
        f"step {run.progress.step} to {trainer.steps}, "
        f"{trainer.batch_size * trainer.accumulate * run.processes.world_size} images a step, on "
        f"{run.processes.where(run.device)}{average}{rates}\n"
        f"{backbone}kernels: {module.kernel_versions()}\n"
        f"curves: tensorboard --logdir {run.folder}"
    )
