"""Compares this code with numbers of the original programs: detectors verify FOLDER ... [--failed].

A folder is laid out like the recordings of Darknet (region_train.json, net.json, ...), of SSD (priors.npz,
loss_*.npz, ...) or of evaluation programs (voc/*.json, keras_yolo2_loss/*.npz, ...). Everything about a case
is read from its files.

Exit status 1 if a fixture fails or cannot be run, if a file is of an unknown kind, or if no fixture reads an
array.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from detectors.commands.verify import (
    darknet_nets,
    darknet_ops,
    darknet_training,
    evaluators,
    keras_course,
    region_layer,
    ssd_detections,
    ssd_losses,
    ssd_nets,
    ssd_recordings,
)
from detectors.commands.verify.comparison import Comparison, Fixture
from detectors.commands.verify.recordings import Folder, read_json
from detectors.config.entry import verb
from detectors.tables import text_row

Reader = Callable[[Folder, Path], Iterator[Fixture]]

# Pattern, matched from the right, -> who reads such a file. The first that matches counts.
RECORDING_READERS: dict[str, Reader] = {
    "region_train.json": region_layer.region_training,
    "region_decode.json": region_layer.decoding,
    "ops.json": darknet_ops.ops_fixtures,
    "net.json": darknet_nets.small,
    "full.json": darknet_nets.full,
    "weights.json": darknet_nets.weights_fixtures,
    "train.json": darknet_training.steps,
    "lr.json": darknet_training.rates,
    "priors.npz": ssd_recordings.priors,
    "loss_*.npz": ssd_losses.loss_fixtures,
    "det_*.npz": ssd_detections.detection_fixtures,
    "l2norm.npz": ssd_detections.l2norm,
    "net_ssd*.npz": ssd_nets.ssd_net_fixtures,
    "name_maps.json": ssd_nets.name_maps,
    "voc/*.json": evaluators.voc_fixtures,
    "voc/*.json.gz": evaluators.voc_fixtures,
    "coco/*.json": evaluators.coco_fixtures,
    "coco/*.json.gz": evaluators.coco_fixtures,
    "known/*.json": evaluators.known_pairs,
    "known/*.json.gz": evaluators.known_pairs,
    "published/*/pycocotools_stats.json": evaluators.published,
    "keras_yolo2_loss/*.npz": keras_course.course_fixtures,
    "keras_yolo2_loss/manifest.json": keras_course.manifest,
}
DOCUMENTS = (
    "README*",
    "LICEN[CS]E*",
    "NOTICE*",
    "*.md",
    "*.py",
    "*.pyc",
    "MANIFEST.json",
    "SHA256SUMS*",
)  # nothing to compare
FOLDER_PARTS = ("*.cfg",)  # what fixtures refer to; one that none refers to is only mentioned

PASS = "pass"
FAIL = "FAIL"
KNOWN = "known"
NOT_RUN = "NOT RUN"


class Row(NamedTuple):
    """A line of the table."""

    fixture: str
    what: str
    absolute: float | None
    relative: float | None
    tolerance: str
    verdict: str
    note: str

    @property
    def bad(self) -> bool:
        return self.verdict in (FAIL, NOT_RUN)


@verb
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="detectors verify", description="Compares every fixture of a folder with this code."
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="recordings: the layouts are described in their README.md",
    )
    parser.add_argument("--failed", action="store_true", help="print only the lines that do not pass")
    args = parser.parse_args(arguments)
    bad = False
    for root in args.folders:
        folder = Folder(root)
        print(f"{root}\n{table_line(VERDICT_HEAD)}")
        rows = []
        for row in verify(folder):
            rows.append(row)
            if not args.failed or row.verdict != PASS:
                print(line(row), flush=True)
        print("\n".join(verify_summary(folder, rows)))
        bad |= not rows or any(row.bad for row in rows)
    if bad:
        raise SystemExit(1)


def verify(folder: Folder) -> Iterator[Row]:
    """The rows of every fixture of a folder as they are computed, and last what no fixture has read."""
    broken: set[Path] = set()  # npz files of fixtures that could not be run to their end
    for name in folder.files:
        reader = next((reader for pattern, reader in RECORDING_READERS.items() if name.match(pattern)), None)
        if reader is not None:
            before = folder.arrays_of.keys() | set()
            for row in _read(reader, folder, name):
                yield row
                if row.verdict == NOT_RUN:
                    broken |= {name, *(folder.arrays_of.keys() - before)}
    for name, arrays in folder.arrays_of.items():
        if name not in broken and (unread := arrays.unread):
            names = ", ".join(unread[:5]) + (" ..." if len(unread) > 5 else "")
            note = f"{len(unread)} arrays that no fixture asks for: {names}"
            yield Row(str(name), "arrays", None, None, "-", NOT_RUN, note)
    for name in unknown_files(folder):
        yield Row(
            str(name),
            "file",
            None,
            None,
            "-",
            NOT_RUN,
            "no fixture refers to this file, and no reader knows its kind",
        )


def _read(reader: Reader, folder: Folder, name: Path) -> Iterator[Row]:
    """All fixtures of one file. An error in one is reported, and the others still run."""
    try:
        folder.path(name)
        fixtures = list(reader(folder, name))
    except Exception as error:  # a damaged file must not end the run: it is named, and the run fails
        yield _not_run(str(name), error)
        return
    if not fixtures:
        yield Row(str(name), "file", None, None, "-", NOT_RUN, "there is no case in this file")
    for fixture in fixtures:
        try:
            for comparison in fixture.run():
                yield _row(fixture.name, comparison)
        except Exception as error:  # as above
            yield _not_run(fixture.name, error)


def _row(fixture: str, comparison: Comparison) -> Row:
    verdict = FAIL if not comparison.passed else KNOWN if comparison.known else PASS
    return Row(
        fixture,
        comparison.what,
        comparison.absolute,
        comparison.relative,
        comparison.tolerance,
        verdict,
        comparison.note or comparison.known,
    )


def _not_run(fixture: str, error: Exception) -> Row:
    message = f"{error}" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
    return Row(fixture, "-", None, None, "-", NOT_RUN, " ".join(message.split()))


def unknown_files(folder: Folder) -> list[Path]:
    """Files that nothing opened, apart from documents, hidden files and cfgs."""
    left = [
        name
        for name in folder.files
        if name not in folder.opened and not any(part.startswith(".") for part in name.parts)
    ]
    return [name for name in left if not any(name.match(pattern) for pattern in (*DOCUMENTS, *FOLDER_PARTS))]


def verify_summary(folder: Folder, rows: list[Row]) -> Iterator[str]:
    """The counts, the failed lines once more, and remarks."""
    counts = Counter(row.verdict for row in rows)
    counted = ", ".join(f"{counts[verdict]} {words}" for verdict, words in WORDS.items())
    fixtures = {row.fixture for row in rows}
    yield f"\n{folder.root}: {len(fixtures)} fixtures, {len(rows)} comparisons: {counted}"
    if not rows:
        yield "nothing in this folder is a fixture that is known here"
    bad = [row for row in rows if row.bad]
    if len(bad) < len(rows):
        yield from (line(row) for row in bad)
    yield from remarks(folder)


def remarks(folder: Folder) -> Iterator[str]:
    """cfgs that no fixture uses, and files that are not those of the manifest."""
    for name in folder.files:
        if name not in folder.opened and any(name.match(pattern) for pattern in FOLDER_PARTS):
            yield f"remark: {name} is used by no fixture"
    for name in folder.files:
        if name.name == "MANIFEST.json":
            listed = read_json(folder.root / name).get("files", {})
            for file, about in listed.items():
                path = folder.root / name.parent / file
                if not path.is_file():
                    yield f"remark: {name} lists {file}, which is not there"
                elif hashlib.sha256(path.read_bytes()).hexdigest() != about.get("sha256"):
                    yield f"remark: {file} is not the file that {name} lists (sha256)"


WORDS = {PASS: "pass", KNOWN: "are known differences", FAIL: "FAIL", NOT_RUN: "could NOT be RUN"}
VERDICT_HEAD = ("fixture", "what was compared", "worst", "relative", "tolerance", "verdict")
VERDICT_WIDTHS = (48, 46, 9, 9, 28, 0)  # fixed, because rows are printed as they are computed


def table_line(cells: Sequence[str]) -> str:
    """One line of the table."""
    return text_row(cells, VERDICT_WIDTHS, left=(0, 1, 4, 5), gap=1)


def line(row: Row) -> str:
    """`worst` is the largest absolute error, `relative` the same over the largest recorded number of its
    array.
    """
    numbers = ("-" if n is None else f"{n:.1e}" if n else "0" for n in (row.absolute, row.relative))
    verdict = f"{row.verdict}: {row.note}" if row.note else row.verdict
    return table_line((row.fixture, row.what, *numbers, row.tolerance, verdict))


if __name__ == "__main__":
    main()
