"""A page in the browser that shows what runs find in an image, and why: detectors show RUN [RUN ...].

It is served on 127.0.0.1 only, by Python's standard library. See docs/show.md and docs/security.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detectors.annotations import Annotations
from detectors.commands.predict.checkpoint_model import CheckpointModel
from detectors.commands.show.image_store import ImageStore
from detectors.commands.show.options import options
from detectors.commands.show.page_server import PageServer
from detectors.commands.show.shown_run import ShownRun
from detectors.config.composing import latest_or
from detectors.config.entry import verb
from detectors.training import assemble, ground_truth
from detectors.training import checkpoint as ckpt

MEGABYTE = 1_000_000


@verb
def main(arguments: list[str] | None = None) -> None:
    server = opened(options(arguments))
    print(f"{server.address}   (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()


def opened(args: argparse.Namespace) -> PageServer:
    """A server that listens. FileNotFoundError or ValueError: a run, its data or the port cannot be used."""
    device = assemble.choose_device(args.device)
    checkpoints = [ckpt.load_checkpoint(ckpt.find_checkpoint(latest_or(place))) for place in args.runs]
    names = page_names([checkpoint.path for checkpoint in checkpoints])
    models = [CheckpointModel(checkpoint, device) for checkpoint in checkpoints]
    annotations = read_split(models[0], args.split) if args.split else Annotations.without_images(())
    store = ImageStore(annotations, max(model.max_pixels for model in models))
    runs = [
        ShownRun(name, str(checkpoint.config.get("name", "")), model)
        for name, checkpoint, model in zip(names, checkpoints, models, strict=True)
    ]
    try:
        return PageServer(args.port, runs, store, args.megabytes * MEGABYTE)
    except OSError as error:
        raise ValueError(
            f"--port {args.port}: {error.strerror}; --port 0 takes a free one, or end the program that has it"
        ) from error


def page_names(checkpoints: Sequence[Path]) -> list[str]:
    """Each run's folder; where two are alike, with the folder above and the file, and then with a number."""
    paths = [path.resolve() for path in checkpoints]
    names = [path.parent.name for path in paths]
    if len(set(names)) < len(names):
        names = ["/".join(path.parts[-3:]) for path in paths]
    return [name if names.count(name) == 1 else f"{name} ({n})" for n, name in enumerate(names, start=1)]


def read_split(model: CheckpointModel, split: str) -> Annotations:
    annotations = ground_truth.read_annotations(model.data, split, model.class_names)
    if not len(annotations):
        raise ValueError(f"--split {split}: the data of the first run have no such images")
    return annotations


if __name__ == "__main__":
    main()
