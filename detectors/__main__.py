"""The commands: detectors VERB [ARGUMENTS], or python -m detectors VERB [ARGUMENTS].

A verb is imported only when it is called.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

from detectors import __version__
from detectors.config.interrupted import ends_at_interrupt
from detectors.config.lasting_output import outlive_readers
from detectors.data.suggestions import did_you_mean

# verb -> (module below detectors.commands, what `detectors --help` says of it)
VERBS = {
    "train": ("train", "train YOLOv2 or SSD; the same as python train.py"),
    "evaluate": (
        "evaluate",
        "AP of a run or checkpoint, by VOC's and COCO's rules; the same as python evaluate.py",
    ),
    "compare": ("compare.command", "tables, intervals and reasons for several evaluated runs"),
    "duel": ("duel.command", "train detectors under one budget with several seeds, and compare them"),
    "predict": ("predict.command", "draw and print what a detector finds in images"),
    "show": ("show.command", "a page in the browser: drop an image, move sliders, compare runs"),
    "download": ("download.command", "fetch VOC, COCO and the blood cells"),
    "lint": ("lint.command", "check every image and box of a data set"),
    "cluster": ("cluster.command", "anchors that fit a data set"),
    "find-rate": ("find_rate.command", "the learning rate at which a training learns fastest"),
    "browse": (
        "browse.command",
        "pictures of what training sees: augmented images, matched anchors; or of saved detections",
    ),
    "receptive-field": ("receptive_field.command", "what each level of a detector sees of an image"),
    "tree": ("tree.command", "check, print, draw and convert a tree of classes, as YOLO9000's"),
    "convert": (
        "convert.command",
        "weights of other programs to checkpoints and back; data sets between formats",
    ),
    "export": ("export.command", "a run's network as an ONNX, torch.export or TorchScript file"),
    "replay": ("replay.command", "repeat the step at which a run was no longer finite, and say why"),
    "verify": ("verify.command", "compare this code with numbers that the original programs computed"),
    "benchmark": ("benchmark.command", "measure speed beside other programs"),
}
HYDRA = ("train", "evaluate")  # their arguments are overrides, which Hydra takes from sys.argv


@ends_at_interrupt
def main(arguments: list[str] | None = None) -> None:
    """Runs one verb; exit status 2 with one message for a verb that does not exist."""
    outlive_readers()
    verb, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in ("-h", "--help"):
        print(overview())
        return
    if verb in ("-V", "--version"):
        print(f"detectors {__version__}")
        return
    verb = verb.replace("_", "-")
    if verb not in VERBS:
        hint = did_you_mean(verb, VERBS, listed=True)
        sys.stderr.write(f"error: detectors {verb}: there is no such command{hint}\n")
        raise SystemExit(2)
    if verb in HYDRA:
        from detectors.config.entry import program  # imports Hydra

        sys.argv = [f"detectors {verb}", *rest]
        program(verb, f"detectors.commands.{verb}.main")()
        return
    place = f"detectors.commands.{VERBS[verb][0]}"
    _check_options(place.rpartition(".")[0], rest)
    import_module(place).main(rest)


def _check_options(package: str, arguments: list[str]) -> None:
    """Answers --help and refuses wrong options before the verb is imported, which takes seconds with PyTorch.

    A verb that needs no such package has no options.py.
    """
    from detectors.config.entry import verb as with_messages

    if find_spec(f"{package}.options") is not None:
        with_messages(import_module(f"{package}.options").options)(arguments)


def overview() -> str:
    """The verbs, a line each."""
    lines = [f"  {verb:10} {line}" for verb, (_, line) in VERBS.items()]
    usage = "usage: detectors VERB [ARGUMENTS]; detectors VERB --help tells more; detectors --version"
    return "\n".join([usage, "", *lines])


if __name__ == "__main__":
    main()
