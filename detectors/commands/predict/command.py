"""Draws and prints what a detector finds, or prints what a classifier says: those of a trained run, or of a
Darknet cfg and weights file.

detectors predict RUN_OR_CHECKPOINT IMAGE_OR_FOLDER ... [--score 0.3]
detectors predict --cfg X.cfg --weights X.weights [--names X.names] IMAGE_OR_FOLDER ... [--thresh 0.5]

The second is Darknet's `detect`: the same boxes and scores, from the JPEG's bytes on; see docs/darknet.md.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import torch

from detectors.commands.predict.class_lines import print_classes
from detectors.commands.predict.darknet_files import DarknetFiles
from detectors.commands.predict.image_classifier import ImageClassifier
from detectors.commands.predict.inputs import find_images
from detectors.commands.predict.options import options
from detectors.commands.predict.predictor import Prediction, Predictor, load
from detectors.config.build import trust
from detectors.config.entry import verb
from detectors.config.schema import output_folder
from detectors.data.files import atomic_file
from detectors.data.images import ImageError
from detectors.drawing import draw_detections
from detectors.kernels.dispatch import set_kernels
from detectors.structures import Detections
from detectors.tables import printable
from detectors.training import assemble
from detectors.training import checkpoint as ckpt


@verb
def main(arguments: list[str] | None = None) -> None:
    args = options(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name may be any bytes: print them as they are.
        sys.stdout.reconfigure(errors="surrogateescape")
    trust(args.builder)
    set_kernels(args.kernels)
    assemble.choose_device(args.device)  # a wrong device or kernel is refused before anything is read
    if args.cfg:
        predictor = Predictor(_darknet_files(args))
        places = args.places
    else:
        stored = ckpt.load_checkpoint(ckpt.find_checkpoint(args.places[0]))
        if assemble.is_classifier(stored):
            print_classes(ImageClassifier(stored, assemble.choose_device(args.device)), args.places[1:])
            return
        predictor = load(args.places[0], device=args.device)
        if predictor.model.averaged:
            sys.stderr.write(f"{args.places[0]}: averaged weights\n")
        places = args.places[1:]
    paths = list(find_images(places))
    output = args.output or output_folder() / "predict"
    pictures = picture_paths(paths, output)
    left_out = 0
    for path in paths:
        try:
            image = predictor.model.read(str(path))
            started = time.perf_counter()
            prediction = predictor.predict_image(image, path=str(path), score=args.score)
        except ImageError as error:
            left_out += 1
            sys.stderr.write(f"error: {error}\n")
            continue
        if args.cfg:
            seconds = time.perf_counter() - started
            print("\n".join(darknet_lines(prediction, seconds)))
        for line in detection_lines(prediction):
            print(line)
        picture = draw_detections(image, _as_detections(prediction), prediction.class_names)
        _write_picture(pictures[path], picture)
    print(f"pictures: {output}")
    if left_out:
        raise ValueError(f"images that could not be used and were left out, see above: {left_out}")


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


def picture_paths(paths: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where each image's picture goes: folder/STEM.png, and a longer name where two images would share one.

    x.jpg and x.png give x.jpg.png and x.png.png; a/x.jpg and b/x.jpg give a/x.png and b/x.png. What still
    shares a name, such as one file in two spellings, gets a number: x-2.png.
    """
    targets = {path: [Path(f"{path.stem}.png")] for path in paths}
    for path in paths:
        resolved = Path(os.path.realpath(path))  # of a link to itself, too
        for depth in range(len(resolved.parents)):
            parents = Path(*resolved.parts[-1 - depth : -1]) if depth else Path()
            targets[path] += [parents / f"{path.stem}.png", parents / f"{path.name}.png"]
    chosen: dict[Path, Path] = {}
    taken: set[str] = set()
    for level in range(max(map(len, targets.values()), default=0)):
        names = {path: t[min(level, len(t) - 1)] for path, t in targets.items() if path not in chosen}
        wanted = Counter(map(_same_file, names.values()))
        free = {path: name for path, name in names.items() if wanted[_same_file(name)] == 1}
        chosen |= {path: name for path, name in free.items() if _same_file(name) not in taken}
        taken = set(map(_same_file, chosen.values()))
        if len(chosen) == len(targets):
            break
    for path in [path for path in targets if path not in chosen]:
        numbered = (Path(f"{path.stem}-{n}.png") for n in count(2))
        chosen[path] = next(name for name in numbered if _same_file(name) not in taken)
        taken.add(_same_file(chosen[path]))
    return {path: folder / name for path, name in chosen.items()}


def _same_file(name: Path) -> str:
    """Equal for names that some file systems cannot tell apart: x.png and X.png."""
    return str(name).casefold()


def _write_picture(target: Path, picture: np.ndarray) -> None:
    """picture: (h, w, 3) uint8 RGB. ValueError if it cannot be written."""
    _, data = cv2.imencode(".png", picture[..., ::-1])
    try:
        with atomic_file(target) as file:
            file.write(data)
    except OSError as error:
        raise ValueError(f"{target}: the picture could not be written ({error.strerror})") from error


def _as_detections(prediction: Prediction) -> Detections:
    return Detections(
        torch.zeros(len(prediction), dtype=torch.int64),
        torch.from_numpy(prediction.boxes_xyxy),
        torch.from_numpy(prediction.scores),
        torch.from_numpy(prediction.labels),
    )


def detection_lines(prediction: Prediction) -> Iterator[str]:
    """`image: class score xmin ymin xmax ymax`, pixels of the image."""
    boxes = prediction.boxes_xyxy.tolist()
    for name, score, box in zip(prediction.names, prediction.scores.tolist(), boxes, strict=True):
        yield f"{prediction.path}: {printable(name)} {score:.3f} " + " ".join(f"{edge:.1f}" for edge in box)


def darknet_lines(prediction: Prediction, seconds: float) -> Iterator[str]:
    """What Darknet's `detect` prints, the best detection first: `dog: 82%`."""
    yield f"{prediction.path}: Predicted in {seconds:.6f} seconds."
    for name, score in zip(prediction.names, prediction.scores.tolist(), strict=True):
        yield f"{printable(name)}: {100 * score:.0f}%"


if __name__ == "__main__":
    main()
