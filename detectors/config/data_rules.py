"""Rules about the settings of `data` that do not go together."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path

from detectors.config.schema import (
    CLASSIFICATION,
    JOINT,
    LABELLED_FORMATS,
    SPLITS,
    Config,
    DataConfig,
    SourceConfig,
)
from detectors.data.layouts import guess_format
from detectors.data.suggestions import did_you_mean

SettingProblem = tuple[str, str]  # place, and the sentence that says what is wrong with it


def _data_complete(config: Config) -> Iterator[SettingProblem]:
    data = config.data
    if data.format == JOINT:
        yield from _sets_joined(data)
        return
    if data.mix:
        yield "data", f"data.mix={list(data.mix)}: goes with data.format={JOINT}; leave it out"
    if data.format != "shapes" and not data.train:  # data.val may be empty: then a training is not evaluated
        what = "annotation file" if data.format == "coco" else "image sets"
        yield "data", f"data.train=[]: name the {what} of the train split, such as data.train=[train]"
    if data.class_names is not None and (
        not data.class_names or len(set(data.class_names)) < len(data.class_names)
    ):
        yield (
            "data",
            f"data.class_names={data.class_names}: must name each class once; "
            "null takes all that the annotations name",
        )
    if any(not name.strip() for name in data.class_names or []):
        yield "data", f"data.class_names={data.class_names}: has an empty name; remove it"
    for split in SPLITS if data.format == "coco" else ():
        yield from _coco_split(config, split)


def _sets_joined(data: DataConfig) -> Iterator[SettingProblem]:
    """What several sets below one tree need."""
    if data.tree is None:
        yield "data", "data.tree is missing: several sets are joined below a tree; set data.tree=FILE"
    if data.class_names is not None:
        yield (
            "data",
            "data.class_names: the classes are the nodes of data.tree; set data.mix.NAME.class_names",
        )
    if not data.train:
        yield "data", f"data.train=[]: name the sets of data.mix to train on: {', '.join(data.mix)}"
    for split in SPLITS:
        names = getattr(data, split)
        for name in names:
            if name not in data.mix:
                hint = did_you_mean(name, data.mix, listed=True)
                yield "data", f"data.{split}={names}: data.mix has no set {name!r}{hint}"
        if len(set(names)) < len(names):
            yield (
                "data",
                f"data.{split}={names}: must name each set once; its weight is its share",
            )
    for name, source in data.mix.items():
        yield from _joined_set(f"data.mix.{name}", source)


def _joined_set(place: str, source: SourceConfig) -> Iterator[SettingProblem]:
    if not source.sets:
        yield "data", f"{place}.sets=[]: name its image sets, annotation file, folders or lists"
    if source.format == "coco" and (len(source.sets) > 1 or source.image_folder is None):
        yield "data", f"{place}: COCO's format takes one annotation file in sets, and image_folder"
    if source.map is not None and source.nodes:
        yield (
            "data",
            f"{place}: map={source.map} and nodes={source.nodes}: leave one of them out",
        )


def _coco_split(config: Config, split: str) -> Iterator[SettingProblem]:
    files = getattr(config.data, split)
    folder = getattr(config.data.image_folders, split)
    if len(files) > 1:
        yield (
            "data",
            f"data.{split}={files}: COCO's format takes one annotation file for each split; join them first",
        )
    if files and folder is None:
        yield (
            "data",
            f"data.image_folders.{split} is missing: "
            f"set data.image_folders.{split}=... to the folder of the images of {files[0]}",
        )


def shapes_in_the_cache(config: Config) -> Iterator[SettingProblem]:
    """The generated images lie in paths.cache: never in a folder of the user's own images."""
    sets = {"data": config.data} | {f"data.mix.{name}": it for name, it in config.data.mix.items()}
    for place, it in sets.items():
        if it.format == "shapes" and Path(it.root) != Path(config.paths.cache):
            yield _shapes_elsewhere(place, Path(it.root))


def _shapes_elsewhere(place: str, root: Path) -> SettingProblem:
    guess = guess_format(root)
    choice = (
        f"did you mean data={guess}?"
        if guess
        else "for your own images add data=voc, data=coco or data=darknet"
    )
    what = f"{place}.root={root}: data=shapes generates its images in paths.cache and has no other root"
    return "data", f"{what}; {choice}"


def _one_way_to_decode(config: Config) -> Iterator[SettingProblem]:
    if config.data.reduced_decode and config.data.image_cache != "none":
        cache = config.data.image_cache
        what = f"data.reduced_decode=true and data.image_cache={cache}: the cache holds whole images"
        yield "data", f"{what}; set data.reduced_decode=false, or data.image_cache=none"


def _data_fits_the_task(config: Config) -> Iterator[SettingProblem]:
    """A detector learns boxes, a classifier one label for each image."""
    data = config.data
    labelled = data.format in LABELLED_FORMATS
    if config.task == CLASSIFICATION and data.format == JOINT:
        what = f"data={data.name}: joins sets with boxes, but {config.name} learns one label for each image"
        yield "data", f"{what}; choose data=imagefolder or data=imagelist, and data.tree"
        return
    if config.task == CLASSIFICATION and not labelled and data.box_crops is None:
        what = f"data={data.name}: its images have boxes, but {config.name} learns one label for each image"
        sets = "data=mnist, data=imagefolder"
        yield "data", f"{what}; set data.box_crops=0.1 to classify what is in the boxes, or choose {sets}"
    if config.task != CLASSIFICATION and (labelled or data.box_crops is not None):
        which = f"data={data.name}" if labelled else f"data.box_crops={data.box_crops}"
        what = f"{which}: its images have one label each and no boxes, but {config.name} is a detector"
        yield "data", f"{what}; choose model=first_network, model=darknet19_classifier, or a set with boxes"
    if labelled and data.box_crops is not None:
        what = f"data.box_crops={data.box_crops}: data={data.name} has no boxes to crop"
        yield "data", f"{what}; set data.box_crops=null"


def _one_split_shared_out(config: Config) -> Iterator[SettingProblem]:
    data = config.data
    if data.val_share is None:
        return
    if data.format == JOINT:
        what = f"data.val_share={data.val_share}: data={data.name} joins sets with val splits of their own"
        yield "data", f"{what}; set it to null"
    elif data.val != data.train:
        what = f"data.val_share={data.val_share} with data.val={data.val}"
        yield "data", f"{what}: the val split is a share of data.train; set data.val={data.train}"


def _classifiers_settings(config: Config) -> Iterator[SettingProblem]:
    """What only one of the tasks can do, and what images without boxes cannot."""
    mixed = [name for name in ("mosaic", "mixup") if getattr(config.mixing, name)]
    if mixed and config.data.format == JOINT:
        what = f"mixing.{mixed[0]}={getattr(config.mixing, mixed[0])}: a mixed image has more than its label"
        yield "mixing", f"{what}, and data={config.data.name} has images with labels alone; set it to 0"
    if config.task != CLASSIFICATION:
        if config.input.resize == "crop":
            what = "input.resize=crop: would cut off boxes, so it is for classification"
            yield "input", f"{what}; set input.resize=letterbox or stretch"
        return
    for name in ("mosaic", "mixup"):
        if value := getattr(config.mixing, name):
            what = f"mixing.{name}={value}: mixes images with boxes, and a classifier has one label"
            yield "mixing", f"{what}; set mixing.{name}=0"


# Rule -> the sections it reads, see CONFIG_RULES in check.py
DATA_RULES: dict[types.FunctionType, tuple[str, ...]] = {
    _data_complete: ("data",),
    shapes_in_the_cache: ("data", "paths"),
    _one_way_to_decode: ("data",),
    _data_fits_the_task: ("data", "task"),
    _one_split_shared_out: ("data", "task"),
    _classifiers_settings: ("data", "input", "mixing", "task"),
}
