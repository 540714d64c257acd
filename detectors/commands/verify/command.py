"""Compares this code with recorded results of the original programs: detectors verify FOLDER ... [--failed].

A folder is laid out like the recordings of Darknet (region_train.json, net.json, ...), of SSD (priors.npz,
loss_*.npz, ...) or of evaluation programs (voc/*.json, keras_yolo2_loss/*.npz, ...). Everything about a case
is read from its files.

The exit status is 1 if a fixture fails or cannot be run, if a file is of an unknown kind, or if an array is
read by no fixture.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from detectors.commands.verify import (
    darknet_nets,
    darknet_ops,
    darknet_rates,
    darknet_training,
    evaluators,
    keras_course,
    nine_k,
    published_pairs,
    region_decoding,
    region_layer,
    ssd_detections,
    ssd_losses,
    ssd_nets,
    ssd_recordings,
    tree_recordings,
    tree_regions,
)
from detectors.commands.verify.comparison import Comparison, Fixture
from detectors.commands.verify.options import options
from detectors.commands.verify.recordings import Folder, read_json
from detectors.config.entry import verb
from detectors.tables import text_row

Reader = Callable[[Folder, Path], Iterator[Fixture]]

# File pattern, matched from the right -> the function that reads such files. The first match counts.
RECORDING_READERS: dict[str, Reader] = {
    "region_train.json": region_layer.region_training,
    "region_decode.json": region_decoding.decoding,
    "region_tree_train.json": tree_regions.tree_training,
    "region_tree_decode.json": tree_regions.tree_decoding,
    "cfg.json": tree_regions.tree_cfgs,
    "nine_k.json": nine_k.nine_k,
    "tree.json": tree_recordings.trees,
    "hierarchy.json": tree_recordings.hierarchies,
    "classify.json": tree_recordings.classifications,
    "ops.json": darknet_ops.ops_fixtures,
    "net.json": darknet_nets.small,
    "full.json": darknet_nets.full,
    "weights.json": darknet_nets.weights_fixtures,
    "train.json": darknet_training.steps,
    "lr.json": darknet_rates.rates,
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
    "known/*.json": published_pairs.known_pairs,
    "known/*.json.gz": published_pairs.known_pairs,
    "published/*/pycocotools_stats.json": published_pairs.published,
    "keras_yolo2_loss/*.npz": keras_course.course_fixtures,
    "keras_yolo2_loss/manifest.json": keras_course.manifest,
}
DOCUMENTS = (  # files without anything to compare
    "README*",
    "LICEN[CS]E*",
    "NOTICE*",
    "*.md",
    "*.py",
    "*.pyc",
    "MANIFEST.json",
    "SHA256SUMS*",
)
FOLDER_PARTS = (
    "*.cfg",
    "*.tree",
    "*.leaves",
    "*.map",
)  # files that fixtures refer to; an unused one is only a remark

PASS = "pass"
FAIL = "FAIL"
KNOWN = "known"
NOT_RUN = "NOT RUN"
VERDICT_WORDS = {PASS: "pass", KNOWN: "are known differences", FAIL: "FAIL", NOT_RUN: "could NOT be RUN"}
VERDICT_HEAD = ("fixture", "what was compared", "worst", "relative", "tolerance", "verdict")
VERDICT_WIDTHS = (48, 46, 9, 9, 28, 0)  # fixed, because rows are printed as they are computed


class Row(NamedTuple):
    """A line of the table. `absolute` and `relative` are a Comparison's; None if nothing was compared."""

    fixture: str
    what: str
    absolute: float | None
    relative: float | None
    tolerance: str
    verdict: str
    note: str

    @classmethod
    def not_run(cls, fixture: str, what: str, note: str) -> Row:
        return cls(fixture, what, None, None, "-", NOT_RUN, note)

    @property
    def bad(self) -> bool:
        return self.verdict in (FAIL, NOT_RUN)


@verb
def main(arguments: list[str] | None = None) -> None:
    args = options(arguments)
    bad = False
    for root in args.folders:
        folder = Folder(root, darknet=args.darknet)
        print(f"{root}\n{table_line(VERDICT_HEAD)}")
        rows = []
        for row in verify(folder):
            rows.append(row)
            if not args.failed or row.verdict != PASS:
                print(row_line(row), flush=True)
        print("\n".join(verify_summary(folder, rows)))
        bad |= not rows or any(row.bad for row in rows)
    if bad:
        raise SystemExit(1)


def verify(folder: Folder) -> Iterator[Row]:
    """Yields the rows of each fixture as they are computed, then a row for each file left unread."""
    incomplete: set[Path] = set()  # npz files of fixtures that an error ended
    for name in folder.files:
        reader = next((reader for pattern, reader in RECORDING_READERS.items() if name.match(pattern)), None)
        if reader is not None:
            opened_before = set(folder.arrays_of)
            for row in _read(reader, folder, name):
                yield row
                if row.verdict == NOT_RUN:
                    incomplete |= {name, *(folder.arrays_of.keys() - opened_before)}
    for name, arrays in folder.arrays_of.items():
        unread = arrays.unread
        if unread and name not in incomplete:
            names = ", ".join(unread[:5]) + (" ..." if len(unread) > 5 else "")
            yield Row.not_run(str(name), "arrays", f"{len(unread)} arrays that no fixture reads: {names}")
    for name in unknown_files(folder):
        yield Row.not_run(str(name), "file", "no fixture refers to this file, and no reader knows its kind")


def _read(reader: Reader, folder: Folder, name: Path) -> Iterator[Row]:
    """Runs all fixtures of one file. If one raises an error, the others still run."""
    try:
        folder.path(name)
        fixtures = list(reader(folder, name))
    except Exception as error:  # a damaged file must not end the run: its row fails
        yield Row.not_run(str(name), "-", _one_line(error))
        return
    if not fixtures:
        yield Row.not_run(str(name), "file", "there is no case in this file")
    for fixture in fixtures:
        try:
            for comparison in fixture.run():
                yield _row(fixture.name, comparison)
        except Exception as error:  # as above
            yield Row.not_run(fixture.name, "-", _one_line(error))


def _row(fixture: str, comparison: Comparison) -> Row:
    if comparison.passed:
        verdict = KNOWN if comparison.known else PASS
    else:
        verdict = FAIL
    return Row(
        fixture,
        comparison.what,
        comparison.absolute,
        comparison.relative,
        comparison.tolerance,
        verdict,
        comparison.note or comparison.known,
    )


def _one_line(error: Exception) -> str:
    message = f"{error}" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
    return " ".join(message.split())


def unknown_files(folder: Folder) -> list[Path]:
    """Files that nothing opened, except documents, hidden files and cfgs."""
    unopened = [name for name in folder.files if name not in folder.opened]
    visible = [name for name in unopened if not any(part.startswith(".") for part in name.parts)]
    return [name for name in visible if not any(map(name.match, (*DOCUMENTS, *FOLDER_PARTS)))]


def verify_summary(folder: Folder, rows: list[Row]) -> Iterator[str]:
    """The counts, the lines that do not pass once more, and remarks."""
    counts = Counter(row.verdict for row in rows)
    counted = ", ".join(f"{counts[verdict]} {words}" for verdict, words in VERDICT_WORDS.items())
    fixtures = {row.fixture for row in rows}
    yield f"\n{folder.root}: {len(fixtures)} fixtures, {len(rows)} comparisons: {counted}"
    if not rows:
        yield "this folder holds no fixture of a known kind"
    bad = [row for row in rows if row.bad]
    if len(bad) < len(rows):
        yield from (row_line(row) for row in bad)
    yield from remarks(folder)


def remarks(folder: Folder) -> Iterator[str]:
    """What is not compared, files that no fixture uses, and files that differ from MANIFEST.json."""
    yield from (f"remark: {line}" for line in folder.remarks)
    for name in folder.files:
        if name not in folder.opened and any(map(name.match, FOLDER_PARTS)):
            yield f"remark: {name} is used by no fixture"
    for name in folder.files:
        if name.name == "MANIFEST.json":
            listed = read_json(folder.root / name).get("files", {})
            for file, about in listed.items():
                path = folder.root / name.parent / file
                if not path.is_file():
                    yield f"remark: {name} lists {file}, which does not exist"
                elif hashlib.sha256(path.read_bytes()).hexdigest() != about.get("sha256"):
                    yield f"remark: the sha256 of {file} is not the one in {name}"


def table_line(cells: Sequence[str]) -> str:
    """Cells padded to the widths of the table's columns."""
    return text_row(cells, VERDICT_WIDTHS, left=(0, 1, 4, 5), gap=1)


def row_line(row: Row) -> str:
    """One row as a line of the table. Column `worst` is the row's absolute error."""
    verdict = f"{row.verdict}: {row.note}" if row.note else row.verdict
    absolute = _error_text(row.absolute)
    relative = _error_text(row.relative)
    return table_line((row.fixture, row.what, absolute, relative, row.tolerance, verdict))


def _error_text(error: float | None) -> str:
    if error is None:
        return "-"
    return f"{error:.1e}" if error else "0"


if __name__ == "__main__":
    main()
