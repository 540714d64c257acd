"""Draws and prints what a detector finds: a trained run's, or that of a Darknet cfg and weights file.

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

from detectors.commands.predict.darknet_files import DarknetFiles
from detectors.commands.predict.inputs import find_images
from detectors.commands.predict.predictor import Prediction, Predictor, load
from detectors.config.build import trust
from detectors.config.entry import verb
from detectors.config.schema import output_folder
from detectors.data.files import atomic_file
from detectors.data.images import ImageError
from detectors.drawing import draw_detections
from detectors.kernels.dispatch import KERNEL_CHOICES, set_kernels
from detectors.structures import Detections
from detectors.tables import printable
from detectors.training import assemble

DARKNET_OPTIONS = ("weights", "names", "nms", "resize", "batch_norm", "report")  # options that need --cfg


@verb
def main(arguments: list[str] | None = None) -> None:
    args = _arguments(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name may be any bytes: print them as they are.
        sys.stdout.reconfigure(errors="surrogateescape")
    trust(args.builder)
    set_kernels(args.kernels)
    if args.cfg:
        predictor = Predictor(_darknet_files(args))
        places = args.places
    else:
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


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Options may stand between the places; what follows `--` is a place, whatever it begins with.

    ValueError for options that do not go together or are out of range.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    end = words.index("--") if "--" in words else len(words)
    args = _parser().parse_intermixed_args(words[:end])
    args.places += map(Path, words[end + 1 :])
    given = [f"--{name.replace('_', '-')}" for name in DARKNET_OPTIONS if getattr(args, name) is not None]
    if args.cfg is None and given:
        raise ValueError(f"{', '.join(given)}: only together with --cfg, for Darknet's files")
    if not args.places:
        raise ValueError("name a run or checkpoint, then images or folders; or --cfg, --weights and images")
    if args.cfg is None and len(args.places) < 2:
        raise ValueError(
            f"{args.places[0]}: a run or checkpoint alone; name the images to look at behind it, "
            "or give --cfg and --weights"
        )
    if args.cfg is not None and args.weights is None:
        raise ValueError(f"--cfg {args.cfg}: --weights is missing")
    for name in ("score", "nms"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"--{name} {value}: must be between 0 and 1")
    if args.score is None:
        args.score = 0.3 if args.cfg is None else 0.5
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="detectors predict",
        usage="%(prog)s (RUN_OR_CHECKPOINT | --cfg CFG --weights WEIGHTS [--names NAMES]) "
        "IMAGE_OR_FOLDER ... [options]",
        description="Prints `image: class score xmin ymin xmax ymax`, and with --cfg Darknet's lines. "
        "Options may stand anywhere; what follows -- is a place, also if it begins with a dash.",
    )
    add = parser.add_argument
    add("places", nargs="*", type=Path, metavar="PLACE", help="a run or checkpoint, then images or folders")
    add("--score", "--thresh", type=float, help="lowest score shown (0.3; with --cfg 0.5, as in Darknet)")
    add("--output", type=Path, help="for pictures (predict in paths.output, below which train.py writes)")
    add("--device", default="auto", help="auto, cpu, cuda, or one GPU of several: cuda:1 (auto)")
    add("--kernels", default="auto", choices=KERNEL_CHOICES, help="as trainer.kernels in docs/kernels.md")
    add("--builder", action="append", default=[], help="module.name of a builder of yours that the run needs")
    add = parser.add_argument_group("Darknet's files, instead of a run").add_argument
    add("--cfg", type=Path, help="the network")
    add("--weights", type=Path)
    add("--names", type=Path, help="one class name a line (without it, numbers)")
    add("--nms", type=float, help="IoU with a better box of its class above which a box is dropped (0.45)")
    add("--resize", choices=("letterbox", "stretch"), help="how images are fitted (letterbox)")
    add("--batch-norm", choices=("cpu", "gpu"), help="which build of Darknet computes alike (cpu)")
    add("--report", action="store_true", default=None, help="list what was loaded, layer by layer")
    return parser


def _darknet_files(args: argparse.Namespace) -> DarknetFiles:
    model = DarknetFiles(
        args.cfg,
        args.weights,
        args.names,
        assemble.choose_device(args.device),
        nms_iou=0.45 if args.nms is None else args.nms,
        resize=args.resize or "letterbox",
        batch_norm=args.batch_norm or "cpu",
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
