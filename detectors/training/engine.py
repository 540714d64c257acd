"""The trainer and the evaluator that both detectors share. Flat: one training step, then what happens once in a while."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm
from tqdm import tqdm

from detectors.annotations import Annotations
from detectors.config.schema import Config, to_plain, to_yaml
from detectors.data.images import read_image
from detectors.data.loading import BatchLoader
from detectors.drawing import draw_detections
from detectors.metrics.report import Report, report
from detectors.models.detector import Detector
from detectors.structures import Batch, Detections
from detectors.training import checkpoint as ckpt
from detectors.training.optim import rate_factor, set_rate
from detectors.training.progress import Clock, Progress, Recent, stop_requests
from detectors.training.tracking import Tracker

METRIC = "AP"  # COCO's AP decides which checkpoint is the best
PROBE_SCORE = 0.3  # detections below this are not drawn


@dataclass
class Run:
    """The parts of a training, built by train.py."""

    config: Config
    folder: Path
    detector: Detector
    optimizer: torch.optim.Optimizer
    train_loader: BatchLoader
    val_loader: BatchLoader
    val_annotations: Annotations
    tracker: Tracker
    device: torch.device
    progress: Progress = field(default_factory=Progress)


def train(run: Run) -> Report:
    """Trains to config.trainer.steps, or until Ctrl-C or SIGTERM, which end the run after the current step with a usable last.pt.

    No host synchronisation in a step: losses stay on the device until they are logged. Returns the last evaluation.
    Raises KeyboardInterrupt when it was asked to stop, and FloatingPointError for a loss that is not finite, naming step, terms and images.
    """
    trainer, progress, detector = run.config.trainer, run.progress, run.detector
    batches, recent, clock = iter(run.train_loader), Recent(), Clock(progress)
    detector.train()
    with (
        stop_requests() as stop,
        tqdm(total=trainer.steps, initial=progress.step, disable=not trainer.progress, unit="step") as bar,
    ):
        last = None
        while progress.step < trainer.steps and not stop:
            # One training step.
            rate = run.config.optimizer["rate"] * rate_factor(
                run.config.schedule, progress.step + 1, trainer.steps
            )
            set_rate(run.optimizer, rate)
            run.optimizer.zero_grad(set_to_none=True)
            for _ in range(trainer.accumulate):
                batch = clock.wait_for(batches).to(run.device, non_blocking=True)
                outputs, terms = forward(run, batch)
                (sum(terms.values()) / trainer.accumulate).backward()
                recent.add(terms, progress.step + 1, batch)
            grad_norm = (
                clip_grad_norm_(detector.parameters(), trainer.clip_grad_norm)
                if trainer.clip_grad_norm
                else None
            )
            run.optimizer.step()
            progress.step += 1
            progress.images_seen += trainer.accumulate * len(batch.infos)
            bar.update()

            # Once in a while: log, evaluate, save.
            ended = progress.step == trainer.steps
            if ended or progress.step % trainer.log_every == 0:
                grad_norm = gradient_norm(detector) if grad_norm is None else grad_norm
                log(
                    run,
                    recent,
                    clock,
                    bar,
                    {"rate": rate, "grad_norm": grad_norm, **statistics(run, outputs, batch)},
                )
            if ended or (trainer.eval_every and progress.step % trainer.eval_every == 0):
                recent.check()
                clock.pause()
                last = evaluate_and_save(run)
                detector.train()
                clock.resume()
        if stop:
            recent.check()
            clock.pause()
            save_run(run, ckpt.LAST)
            raise KeyboardInterrupt(
                f"stopped after step {progress.step}; go on with: python train.py trainer.resume={run.folder}"
            )
    return last if last is not None else evaluate_and_save(run)


def forward(run: Run, batch: Batch) -> tuple:
    """Head outputs and loss terms of a batch."""
    low = run.config.trainer.precision == "bfloat16"
    with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=low):
        outputs = run.detector(batch.images)
    return outputs, run.detector.losses(outputs, batch.targets, batch.images.shape[-2:])


def statistics(run: Run, outputs, batch: Batch) -> dict[str, Tensor]:
    return run.detector.statistics(outputs, batch.targets, batch.images.shape[-2:])


def gradient_norm(detector: Detector) -> Tensor:
    """L2 norm over all gradients, before any clipping."""
    return get_total_norm([p.grad for p in detector.parameters() if p.grad is not None])


def log(run: Run, recent: Recent, clock: Clock, bar: tqdm, numbers: dict[str, float | Tensor]) -> None:
    """Scalars to the tracker and the bar. This is where the host waits for the device."""
    losses = recent.means()
    rates = clock.rates()
    numbers = {name: float(value) for name, value in numbers.items()}
    scalars = {f"train/loss/{name}": value for name, value in losses.items()}
    scalars |= {
        f"train/{name}": value
        for name, value in (numbers | rates | {"images_seen": run.progress.images_seen}).items()
    }
    if broken := len(run.train_loader.problems):
        scalars["train/broken_images"] = broken
    run.tracker.scalars(scalars, run.progress.step)
    bar.set_postfix(loss=f"{losses['total']:.3f}", images_per_s=f"{rates['images_per_second']:.1f}")


def evaluate_and_save(run: Run) -> Report:
    """Evaluates on the validation split, logs numbers and pictures, and writes last.pt and, if it is the best so far, best.pt."""
    started = perf_counter()
    detections, _ = detect(run.detector, run.val_loader, run.device, progress=run.config.trainer.progress)
    result = report(run.val_annotations, detections)
    scalars = {f"val/{name}": value for name, value in result.scalars.items() if name.startswith("AP")}
    scalars |= {f"val_class/{name}/AP50": row["AP50"] for name, row in result.per_class.items()}
    scalars["time/evaluation"] = perf_counter() - started
    if broken := len(run.val_loader.problems):
        scalars["val/broken_images"] = broken
    run.tracker.scalars(
        {tag: value for tag, value in scalars.items() if value is not None}, run.progress.step
    )
    probe(run, detections)
    score = result.scalars[METRIC]
    best = score is not None and score > run.progress.best
    run.progress.best = score if best else run.progress.best
    save_run(run, ckpt.LAST)
    if best:
        save_run(run, ckpt.BEST)
    write_summary(run, result)
    return result


@torch.no_grad()
def detect(
    detector: Detector, loader: BatchLoader, device: torch.device, *, progress: bool
) -> tuple[Detections, float]:
    """Detections of every image of the loader, in the original frame, `image` = row of its Annotations; and the seconds without loading.

    The detector is left in evaluation mode.
    """
    detector.eval()
    found, seconds = [], 0.0
    for batch in tqdm(loader, disable=not progress, desc="evaluate", leave=False):
        started = perf_counter()
        images = batch.images.to(device, non_blocking=True)
        result = detector.detections(detector(images), batch.infos, images.shape[-2:]).to("cpu")
        seconds += perf_counter() - started
        rows = torch.tensor([info.index for info in batch.infos])
        found.append(Detections(rows[result.image], result.boxes, result.scores, result.labels))
    return Detections.concatenate(found), seconds


def device_name(device: torch.device) -> str:
    """What timings were taken on."""
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads"
    )


def probe(run: Run, detections: Detections) -> None:
    """The first images of the validation split with truths and detections, for the eye."""
    truths = run.val_annotations
    pictures = []
    for index in range(min(run.config.trainer.probe_images, len(truths))):
        if truths.paths[index] in run.val_loader.problems:
            continue
        rows = truths.rows(index)
        image = read_image(truths.paths[index])
        mine = detections.of_image(index).above(PROBE_SCORE)
        pictures.append(
            draw_detections(
                image,
                mine,
                truths.class_names,
                gt_boxes=truths.boxes_original[rows],
                gt_labels=truths.labels[rows],
            )
        )
    if pictures:
        run.tracker.images("probe/detections", pictures, run.progress.step)


def save_run(run: Run, name: str) -> None:
    ckpt.save_checkpoint(
        ckpt.Checkpoint(
            path=run.folder / name,
            step=run.progress.step,
            config=to_plain(run.config),
            class_names=run.val_annotations.class_names,
            model=run.detector.state_dict(),
            progress=dict(vars(run.progress)),
            optimizer=run.optimizer.state_dict(),
            random=ckpt.random_state(),
        )
    )


def restore(run: Run, checkpoint: ckpt.Checkpoint) -> None:
    """Optimiser, progress and random state of a checkpoint into a run whose detector already has its weights.

    ValueError for a checkpoint of weights alone.
    """
    if not checkpoint.optimizer:
        raise ValueError(
            f"{checkpoint.path}: holds weights alone, as convert writes them, so that no run can go on from it; "
            "start a new one with trainer.init_from instead of trainer.resume"
        )
    run.optimizer.load_state_dict(checkpoint.optimizer)
    run.progress = Progress(**checkpoint.progress)
    ckpt.set_random_state(checkpoint.random)


def write_summary(run: Run, result: Report) -> None:
    """summary.json: what a comparison needs to know about the training. config.yaml: what it was told."""
    config, progress = run.config, run.progress
    summary = {
        "name": config.name,
        "model": config.model["_target_"].rpartition(".")[2],
        "data": config.data.name,
        "input_size": config.input.size,
        "parameters": run.detector.parameter_count,
        "gflops": run.detector.flops(config.input.size) / 1e9,
        "seed": config.seed,
        "steps": progress.step,
        "images_seen": progress.images_seen,
        "train_seconds": progress.train_seconds,
        "train_images_per_second": progress.images_seen / max(progress.train_seconds, 1e-9),
        "device": device_name(run.device),
        "validation": result.as_dict(),
    }
    (run.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    (run.folder / "config.yaml").write_text(to_yaml(config))
