"""Draws, prints and writes what a detector finds, or prints what a classifier says: those of a trained run,
or of a Darknet cfg and weights file.

detectors predict RUN_OR_CHECKPOINT PLACE ... [--score 0.3]
detectors predict --cfg X.cfg --weights X.weights [--names X.names] PLACE ... [--thresh 0.5]

The second is Darknet's `detect`: the same boxes and scores, from the JPEG's bytes on; see docs/darknet.md.
docs/predict.md shows the places and the options.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from detectors.commands.predict.checkpoint_model import CheckpointModel
from detectors.commands.predict.class_lines import print_classes
from detectors.commands.predict.darknet_files import DarknetFiles
from detectors.commands.predict.frames import Reading, read_frames
from detectors.commands.predict.image_classifier import ImageClassifier
from detectors.commands.predict.inputs import Found, find_sources
from detectors.commands.predict.options import FOLDER_FORMATS, STREAM_FORMATS, options, refuse_for_classifier
from detectors.commands.predict.picture_files import Pictures, picture_paths, write_crops
from detectors.commands.predict.predictor import Outcome, Prediction, Predictor, load
from detectors.commands.predict.result_writers import ResultWriter, detect_lines, result_writers
from detectors.commands.predict.views import ViewPlan
from detectors.config.build import trust
from detectors.config.composing import latest_or, output_folder
from detectors.config.entry import verb
from detectors.data.suggestions import did_you_mean
from detectors.kernels.dispatch import set_kernels
from detectors.models.exported import EXPORT_SUFFIXES
from detectors.training import assemble
from detectors.training import checkpoint as ckpt
from detectors.training.kept_memory import keep_freed_memory
from detectors.training.progress import StopRequests, stop_requests
from detectors.training.run_log import shows_bar

READ_AHEAD = 2  # batches that are decoded while the network computes
INTERRUPTED = 130  # exit status after Ctrl-C


@verb
def main(arguments: list[str] | None = None) -> None:
    args = options(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name may be any bytes: print them as they are.
        sys.stdout.reconfigure(errors="surrogateescape")
    trust(args.builder)
    set_kernels(args.kernels)
    keep_freed_memory()
    device = assemble.choose_device(args.device)  # a wrong device is refused before anything is read
    if args.cfg:
        look(Predictor(_darknet_files(args)), args.places, args)
        return
    run, *places = args.places
    if Path(run).suffix in EXPORT_SUFFIXES:
        look(load(run, device=args.device), places, args)
        return
    stored = ckpt.load_checkpoint(ckpt.find_checkpoint(latest_or(Path(run))))
    if assemble.is_classifier(stored):
        refuse_for_classifier(args)
        print_classes(ImageClassifier(stored, device), places, Reading(args.every, args.frames))
        return
    model = CheckpointModel(stored, device)
    if model.averaged:
        sys.stderr.write(f"{run}: averaged weights\n")
    look(Predictor(model), places, args)


def _darknet_files(args: argparse.Namespace) -> DarknetFiles:
    model = DarknetFiles(
        args.cfg,
        args.weights,
        args.names,
        assemble.choose_device(args.device),
        nms_iou=0.45 if args.nms is None else args.nms,
        resize=args.resize or "letterbox",
        batch_norm=args.batch_norm or "cpu",
        tree_rule=args.tree_rule,
        tree_threshold=args.hier,
        detection_map=args.map,
    )
    if args.report:
        print("\n".join(model.report.lines()))
    return model


@dataclass
class PredictRun:
    """One call of the command: what is written where, and how far it is."""

    args: argparse.Namespace
    output: Path
    targets: dict[Path, Path]  # a source's path -> its picture
    labels: list[int] | None  # that are shown; None: all
    pictures: Pictures = field(default_factory=Pictures)
    images: int = 0
    left_out: int = 0
    stopped: bool = False
    failure: ValueError | OSError | None = None  # of writing, which ends the call

    def take(self, outcome: Outcome | ValueError | OSError, writers: Sequence[ResultWriter]) -> None:
        """Writes what was found in an image, or the error in its place."""
        if isinstance(outcome, Exception):
            self.left_out += 1
            sys.stderr.write(f"error: {outcome}\n")
            return
        frame = outcome.frame
        prediction = of_labels(outcome.prediction, self.labels)
        target = self.targets[frame.source.path]
        name = target.relative_to(self.output).with_suffix("")
        name = name if frame.number is None else name / f"{frame.number:06}"
        if self.args.cfg and self.prints_lines:
            print("\n".join(detect_lines(prediction, outcome.seconds)))
        for writer in writers:
            writer.add(prediction, name)
        if self.args.pictures:
            self.pictures.add(frame, prediction, target)
        if self.args.save_crops:
            write_crops(frame, prediction, self.output / "crops", name)
        if frame.number is not None:
            sys.stdout.flush()  # somebody may watch a camera through a pipe
        self.images += 1

    @property
    def prints_lines(self) -> bool:
        return ("lines", None) in self.args.formats

    @property
    def prints_text(self) -> bool:
        """Whether stdout is for people, so that other lines may follow."""
        return self.args.count or self.prints_lines

    @property
    def prints(self) -> bool:
        """Whether anything goes to stdout while it runs."""
        printed = [name for name, place in self.args.formats if place is None and name in STREAM_FORMATS]
        return self.args.count or bool(printed)

    def places(self) -> Iterator[str]:
        """Where everything was written."""
        for name, place in self.args.formats:
            if place or name in FOLDER_FORMATS:
                yield f"{name}: {place or self.output / name}"
        if self.args.save_crops:
            yield f"crops: {self.output / 'crops'}"
        if self.args.pictures:
            yield f"pictures: {self.output}"


def look(predictor: Predictor, places: Sequence[str], args: argparse.Namespace) -> None:
    """Finds objects at all places. ValueError at the end if some could not be used; 130 after Ctrl-C."""
    labels = wanted_labels(args.classes, predictor.class_names)
    plan = ViewPlan(args.tile, args.overlap, args.whole, args.augment)
    predictor.require_sizes(plan)
    found = list(find_sources(places))
    output = args.output or output_folder() / "predict"
    targets = picture_paths([source.path for source in found if not isinstance(source, Exception)], output)
    this = PredictRun(args, output, targets, labels)
    frames = read_frames(found, predictor.model.read, Reading(args.every, args.frames))
    outcomes = predictor.outcomes(
        frames,
        plan,
        score=args.score,
        batch_size=args.batch_size,
        ahead=READ_AHEAD if args.tile else READ_AHEAD * args.batch_size,
    )
    started = time.perf_counter()
    with (
        result_writers(args.formats, args.count, output) as writers,
        _bar(this, found) as bar,
        stop_requests() as stop,
        closing(outcomes),
    ):
        try:
            for outcome in _until_stopped(outcomes, stop):
                this.take(outcome, writers)
                bar.update()
        except KeyboardInterrupt:
            this.stopped = True
        except (ValueError, OSError) as error:
            this.failure = error
        this.pictures.finish()
    _report(this, time.perf_counter() - started)


def _until_stopped(
    outcomes: Iterator[Outcome | ValueError | OSError], stop: StopRequests
) -> Iterator[Outcome | ValueError | OSError]:
    """The outcomes. KeyboardInterrupt between two of them, so that each is written or not."""
    while True:
        stop.raise_if_any()
        with stop.at_once():
            outcome = next(outcomes, None)
        if outcome is None:
            return
        yield outcome


def _bar(this: PredictRun, found: Sequence[Found]) -> tqdm:
    """A progress bar, where nothing else is shown."""
    many = any(not isinstance(source, Exception) and source.kind in ("video", "camera") for source in found)
    hidden = this.prints or not shows_bar(True)
    return tqdm(total=None if many else len(found), unit="image", leave=False, disable=hidden)


def _report(this: PredictRun, seconds: float) -> None:
    """Says what was done. ValueError or SystemExit unless all of it was."""
    for line in this.places():
        print(line, file=sys.stderr if this.prints and not this.prints_text else sys.stdout)
    sys.stdout.flush()
    images = "1 image" if this.images == 1 else f"{this.images:,} images"
    sys.stderr.write(f"{images} in {seconds:.1f} s: {this.images / seconds:.1f} images/s\n")
    if this.stopped:
        sys.stderr.write("stopped; what was found until then is written\n")
        raise SystemExit(INTERRUPTED)
    if this.failure is not None:
        raise this.failure
    if this.left_out:
        raise ValueError(f"inputs that could not be used and were left out, see above: {this.left_out}")


def wanted_labels(typed: Sequence[str] | None, class_names: Sequence[str]) -> list[int] | None:
    """The labels of class names, one or several with commas in each text; None for all.

    ValueError for a name that the detector does not know.
    """
    if typed is None:
        return None
    names = [name for text in typed for name in ([text] if text in class_names else text.split(","))]
    for name in names:
        if name not in class_names:
            raise ValueError(
                f"--class {name}: no class of this detector{did_you_mean(name, class_names, listed=True)}"
            )
    return [class_names.index(name) for name in names]


def of_labels(prediction: Prediction, labels: Sequence[int] | None) -> Prediction:
    """The boxes of these labels only; None for all."""
    if labels is None:
        return prediction
    rows = np.isin(prediction.labels, labels)
    return replace(
        prediction,
        boxes_xyxy=prediction.boxes_xyxy[rows],
        scores=prediction.scores[rows],
        labels=prediction.labels[rows],
    )


if __name__ == "__main__":
    main()
