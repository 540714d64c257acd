"""The files that the commands of the pages name, small: images, data sets, other programs' weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from detectors.config.check import check
from detectors.config.composing import composed
from detectors.darknet.weights import save_weights
from detectors.data.class_names import COCO_CLASSES, VOC_CLASSES
from detectors.models.detector import Detector
from detectors.training import assemble
from detectors.training.initial.parameter_names import ours, ssd_pytorch
from detectors.training.initial.ssd_ports import write_port
from tests.darknet.cfgs import yolov2
from tests.data.files import box_xml, write_coco, write_image, write_voc

NARROW = "model.width=0.125"
PETS = ("cat", "dog")
IMAGES = 3  # of each split
SIZE = (200, 350)  # height and width, pixels


def write_named_files(folder: Path) -> Path:
    """Images, data sets and weights of other programs that the pages name; the networks are narrow."""
    write_image(folder / "dog.jpg", SIZE)
    write_image(folder / "images" / "cat.jpg", SIZE, seed=1)
    write_voc_set(folder / "my" / "voc", PETS, "train", "val")
    write_coco_set(
        folder / "my" / "coco",
        PETS,
        {"annotations/train.json": "train", "annotations/val.json": "val"},
    )
    write_darknet_set(folder / "my" / "set", PETS)
    write_darknet_set(folder, PETS)
    (folder / "my.data").write_text(
        "classes=2\ntrain=train.txt\nvalid=val.txt\nnames=my.names\nbackup=backup\n"
    )
    (folder / "my.names").write_text("cat\ndog\n")
    devkit = folder / "data" / "VOCdevkit"
    write_voc_set(devkit / "VOC2007", VOC_CLASSES, "trainval", "test")
    write_voc_set(devkit / "VOC2012", VOC_CLASSES, "trainval")
    write_coco_set(
        folder / "data" / "coco",
        COCO_CLASSES,
        {f"annotations/instances_{split}2017.json": f"{split}2017" for split in ("train", "val")},
    )
    write_darknet_files(folder, PETS, "my")
    write_darknet_files(folder, COCO_CLASSES, "yolov2")
    write_backbone(folder)
    write_ports(folder)
    return folder


def boxes_of(names: tuple[str, ...], image: int) -> list[tuple[str, tuple[int, int, int, int]]]:
    """A box (xmin, ymin, xmax, ymax) for each class; every image has other shapes."""
    return [
        (name, (2 + 7 * number % 290, 10, 32 + 7 * number % 290 + 5 * image, 60 + 9 * image + number))
        for number, name in enumerate(names)
    ]


def write_voc_set(root: Path, names: tuple[str, ...], *splits: str) -> None:
    for split in splits:
        objects = {
            f"{root.name}_{split}_{image}": "".join(
                box_xml(name, *box) for name, box in boxes_of(names, image)
            )
            for image in range(IMAGES)
        }
        write_voc(root, objects, split=split, size=SIZE)


def write_coco_set(root: Path, names: tuple[str, ...], files: dict[str, str]) -> None:
    """files: annotation file -> image folder, both below root."""
    images = [{"id": n, "file_name": f"{n}.jpg", "width": SIZE[1], "height": SIZE[0]} for n in range(IMAGES)]
    boxes = [
        {"image_id": image, "category_id": names.index(name), "bbox": [left, top, right - left, bottom - top]}
        for image in range(IMAGES)
        for name, (left, top, right, bottom) in boxes_of(names, image)
    ]
    content = {
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        "images": images,
        "annotations": [{"id": n, **box} for n, box in enumerate(boxes, 1)],
    }
    for file, folder in files.items():
        written = write_coco(root / "draft", content, size=SIZE)
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        written["annotation_file"].rename(root / file)
        written["image_folder"].rename(root / folder)


def write_darknet_set(root: Path, names: tuple[str, ...]) -> None:
    """images/{train,val} with labels/, lists, a .data and a data.yaml file."""
    for split in ("train", "val"):
        (root / "labels" / split).mkdir(parents=True)
        for n in range(IMAGES):
            write_image(root / "images" / split / f"{n}.jpg", SIZE, seed=n)
            lines = [f"{label} 0.5 0.5 0.{2 + n} 0.{3 + label}\n" for label in range(len(names))]
            (root / "labels" / split / f"{n}.txt").write_text("".join(lines))
        (root / f"{split}.txt").write_text("".join(f"images/{split}/{n}.jpg\n" for n in range(IMAGES)))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: [{', '.join(names)}]\n")


def detector(*overrides: str, classes: int) -> Detector:
    """An untrained one."""
    torch.manual_seed(0)
    return assemble.build_detector(check(composed([*overrides])), classes)


def write_darknet_files(folder: Path, names: tuple[str, ...], name: str) -> None:
    """NAME.cfg and NAME.weights of a narrow YOLOv2."""
    anchors = "coco" if len(names) == 80 else "voc"
    (folder / f"{name}.cfg").write_text(yolov2(0.125, len(names), anchors))
    module = detector("model=yolov2", f"model.anchors={anchors}", NARROW, classes=len(names))
    save_weights(module, folder / f"{name}.weights")


def write_backbone(folder: Path) -> None:
    """darknet19_448.conv.23: a header, and the backbone's numbers from the beginning of yolov2.weights."""
    module = detector("model=yolov2", NARROW, classes=20)
    save_weights(module, folder / "whole.weights")
    norms = [part for part in module.backbone.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    count = sum(parameter.numel() for parameter in module.backbone.parameters())
    count += sum(2 * norm.num_features for norm in norms)
    header = 5  # version 0.2: three numbers and a 64-bit count of images
    whole = np.fromfile(folder / "whole.weights", dtype=np.float32)
    whole[: header + count].tofile(folder / "darknet19_448.conv.23")


def write_ports(folder: Path) -> None:
    """Weights of ssd.pytorch (narrow) and torchvision (whose width we write)."""
    caffe = {
        ours(name): value for name, value in detector("model=ssd300", NARROW, classes=20).state_dict().items()
    }
    ssd = {name: caffe[layer] for name, layer in ssd_pytorch(levels=6).items()}
    torch.save(ssd, folder / "ssd300_mAP_77.43_v2.pth")
    vgg = {name.removeprefix("vgg."): value for name, value in ssd.items() if name.startswith("vgg.")}
    torch.save(vgg, folder / "vgg16_reducedfc.pth")
    wide = detector("model=ssd300_coco", "loss=multibox_torchvision", classes=80).state_dict()
    torch.save(write_port(wide, "torchvision"), folder / "ssd300_vgg16_coco-b556d3b4.pth")
