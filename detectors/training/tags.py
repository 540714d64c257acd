"""The table of tags: what a run may record, under names that all detectors share, so that curves overlay.

docs/curves.md explains every tag.
"""

from __future__ import annotations

import re

from detectors.data.suggestions import did_you_mean

# <...> stands for any text. A tag that is not here is refused: add it here and to docs/curves.md
# (tests/training/test_tags.py compares the two).
TAGS = {
    "train/loss/total": "sum of the loss terms, each already weighted",
    "train/loss/box": "box offsets of positive anchors",
    "train/loss/class": (
        "class of positive anchors; SSD: and of the mined negatives; a classifier: cross-entropy"
    ),
    "train/loss/object": "YOLOv2: objectness of positive anchors against their IoU",
    "train/loss/noobject": "YOLOv2: objectness of the background against 0",
    "train/loss/prior": "YOLOv2: pull of unassigned predictions to their anchors, first 12,800 images only",
    "train/rate": "learning rate",
    "train/rate/<group>": "learning rate of a parameter group that has another one, such as biases",
    "train/grad_norm": "2-norm of the whole gradient before clipping",
    "train/loss_scale": "float16: what the loss is multiplied by, so that small gradients do not vanish",
    "train/overflows": "float16: steps left out since the start, because a scaled gradient overflowed",
    "train/weight_norm": "2-norm of all trained weights together",
    "train/images_seen": "training images since the start of the run, repetitions counted",
    "train/images_per_second": "training images per second since the last point",
    "train/data_wait": "share of the time since the last point that was spent waiting for the next batch",
    "train/peak_memory": "GiB: most that tensors had on the GPU, or that the process had on a CPU",
    "train/broken_images": "training images that could not be used and were replaced; no point for none",
    "train/skipped_steps": "steps that were left out, because they were not finite; no point for none",
    "train/positives_per_image": "anchors that have to find a box, per image",
    "train/mean_matched_iou": "mean IoU of the positive anchors' predictions with their boxes",
    "train/negatives_per_positive": "SSD: mined negatives per positive anchor",
    "train/truth_iou": "YOLOv2: mean IoU of boxes with the responsible predictions (Darknet's Avg IOU)",
    "train/recall": "YOLOv2: share of boxes whose responsible prediction has IoU > .5 (Darknet's Avg Recall)",
    "train/confident_recall": (
        "YOLOv2: share of positive anchors with IoU > .5 and objectness > .3 (the course's recall)"
    ),
    "train/class_probability": "YOLOv2: mean probability given to the right class (Darknet's Class)",
    "train/objectness": "YOLOv2: mean objectness of the responsible predictions (Darknet's Obj)",
    "train/no_objectness": "YOLOv2: mean objectness of all predictions (Darknet's No Obj)",
    "train/truths": "YOLOv2: boxes in the batch (Darknet's count)",
    "train/accuracy": "a classifier: share of the batch's images whose best class is right",
    "val/accuracy": "a classifier: share of the images whose best class is right",
    "val/accuracy_top5": "a classifier: share of the images whose class is among the best five",
    "val/accuracy_mean": "a classifier: mean over the classes of their accuracy",
    "val/AP": "COCO: mean AP over IoU .50:.05:.95 and classes",
    "val/AP50": "COCO: AP at IoU .50",
    "val/AP75": "COCO: AP at IoU .75",
    "val/AP50_voc07": "VOC2007: mean 11-point AP at IoU > .5",
    "val/AP50_voc10": "VOC2010: mean area under the curve at IoU > .5",
    "val/AP_small": "COCO: AP of boxes under 32^2 pixels",
    "val/AP_medium": "COCO: AP of boxes from 32^2 to 96^2 pixels",
    "val/AP_large": "COCO: AP of boxes over 96^2 pixels",
    "val/AR1": "COCO: mean recall over IoU .50:.05:.95 and classes; one detection per image and class",
    "val/AR10": "COCO: the same with 10",
    "val/AR100": "COCO: the same with 100",
    "val/AR_small": "COCO: val/AR100 of boxes under 32^2 pixels",
    "val/AR_medium": "COCO: val/AR100 of boxes from 32^2 to 96^2 pixels",
    "val/AR_large": "COCO: val/AR100 of boxes over 96^2 pixels",
    "val/AP_boxes": "a tree: val/AP of the classes with boxes in the training split",
    "val/AP50_boxes": "a tree: val/AP50 of the same classes",
    "val/AP_no_boxes": "a tree: val/AP of the classes without any box in the training split",
    "val/AP50_no_boxes": "a tree: val/AP50 of the same classes",
    "val/hits_level<level>": "a tree: share of the boxes, or images, whose class is right down to a level",
    "val/loss/<term>": "the terms of train/loss, and their total, on the validation split",
    "best/<metric>": "the same number of the best evaluation so far, by the metric that chooses best.pt",
    "val/broken_images": (
        "validation images that could not be used; their boxes count as missed; no point for none"
    ),
    "val_class/<name>/AP": "COCO: AP of one class",
    "val_class/<name>/AP50": "COCO: AP at IoU .50 of one class",
    "val_class/<name>/accuracy": "a classifier: share of the images of one class whose best class is right",
    "time/<part>": "seconds spent in one part of the run, such as `evaluation`",
    "probe/detections/<image>": (
        "a fixed validation image: ground truth dashed and white, detections coloured by class"
    ),
    "probe/anchors/<image>": "the same images: boxes and their matched anchors; at the first evaluation",
    "val/confusion/<picture>": "confusion matrix of classes, with missed boxes and detections without a box",
    "val/mistakes/<picture>": "a classifier: images whose best class is wrong, those it is surest of first",
    "pr/<name>": "precision against recall of one class at IoU > .5, by threshold of the score",
    "weights/<parameter>": "histogram of a weight, with trainer.histograms_every",
    "gradients/<parameter>": "histogram of its gradient, after clipping",
    "browse/<picture>/<page>": (
        "browse: training samples with their boxes; originals and epochs; matched anchors"
    ),
    "browse/about": "browse: what is shown, and matched anchors per box, by size of box",
    "compare/<number>": "compare: a number of comparison.json, see docs/compare.md",
    "user/<name>": "your own numbers and pictures, from a hook",
    "run/config": "the resolved configuration",
    "run/versions": "Python, its packages, the device and its driver",
    "run/commit": "the git commit of the code, and whether files differ from it",
}


def check_tag(tag: str) -> str:
    """The tag itself. ValueError, with the nearest name, if TAGS does not have it."""
    if not is_known(tag):
        hint = did_you_mean(tag, TAGS, quoted=True)
        raise ValueError(
            f"{tag!r} is not in the table of tags in detectors/training/tags.py{hint}; "
            "a new one goes there and in docs/curves.md"
        )
    return tag


def is_known(tag: str) -> bool:
    return any(_PATTERNS[known].fullmatch(tag) for known in TAGS)


# No tag holds a character that is special in a pattern.
_PATTERNS = {tag: re.compile(re.sub("<[^>]+>", ".+", tag), re.DOTALL) for tag in TAGS}
