"""Measures speed side by side with other programs: detectors benchmark SUBJECT [--help]"""

from __future__ import annotations

import sys
from importlib import import_module

from detectors.config.entry import verb
from detectors.data.suggestions import did_you_mean

# subject -> (module of this package, what `detectors benchmark --help` says of it)
SUBJECTS = {
    "loss": ("loss_speed", "target encoding, loss and gradient, beside torchvision's and lightnet's"),
    "tree": ("tree_speed", "class term and scores of YOLO9000's tree, beside a flat softmax"),
    "step": ("step_speed", "a training step, beside torchvision's and lightnet's"),
    "inference": ("inference_speed", "forward pass and post-processing, beside torchvision's"),
    "evaluate": ("evaluate_speed", "COCO's numbers, beside pycocotools and faster-coco-eval"),
    "kmeans": ("kmeans_speed", "anchors by k-means, beside lightnet's"),
    "data": ("data_speed", "decoding and augmentation, beside torchvision's transforms"),
    "startup": ("startup_speed", "from the command line to the answer, beside `import torch`"),
    "gpu": ("gpu_speed", "all of this on a GPU: fills the GPU rows of docs/performance.md"),
}


@verb
def main(arguments: list[str] | None = None) -> None:
    subject, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if subject in ("-h", "--help"):
        print(subjects_overview())
        return
    if subject not in SUBJECTS:
        hint = did_you_mean(subject, SUBJECTS, listed=True)
        raise ValueError(f"detectors benchmark {subject}: there is no such subject{hint}")
    import_module(f"detectors.commands.benchmark.{SUBJECTS[subject][0]}").main(rest)


def subjects_overview() -> str:
    lines = [f"  {subject:10} {line}" for subject, (_, line) in SUBJECTS.items()]
    usage = "usage: detectors benchmark SUBJECT [OPTIONS]; detectors benchmark SUBJECT --help tells more"
    return "\n".join([usage, "", *lines])


if __name__ == "__main__":
    main()
