# %% [markdown]
# YOLOv2 and SSD on generated shapes: train, evaluate, compare, draw. A script whose cells Colab, Jupyter
# and VS Code show. `python docs/colab.py` runs them all; with `debug=fast` they learn next to nothing.

# %% What to install where it is missing, and the settings of both trainings
import importlib.util
import subprocess
import sys
from pathlib import Path

INSTALL_FROM = "."  # a checkout, a wheel that you have uploaded, or git+https://...
SETTINGS = []  # ["data=voc", "data.root=/my/set"] takes your own images
OUTPUT = Path("outputs/colab")
IMAGES = 4  # to draw

if Path(sys.argv[0]).name == "colab.py":  # a notebook has other arguments
    SETTINGS = sys.argv[1:]
if importlib.util.find_spec("detectors") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", INSTALL_FROM], check=True)


def detectors(*arguments: str) -> None:
    """A command, as in a terminal. CalledProcessError if it fails."""
    subprocess.run([sys.executable, "-m", "detectors", *arguments], check=True)


# %% Train both with the same images and steps; the same command goes on with a training that was stopped
RUNS = {model: str(OUTPUT / model) for model in ("yolov2_160", "ssd160")}
for model, run in RUNS.items():
    place = [f"hydra.run.dir={run}", f"paths.cache={OUTPUT}/cache", "trainer.resume=auto"]
    detectors("train", f"model={model}", *place, *SETTINGS)

# %% Measure and compare them: AP, intervals, kinds of errors, speed
ALIKE = ["score_threshold=0.01", "nms_iou=0.45", "nms=hard", "candidates_per_class=400", "max_detections=200"]
for run in RUNS.values():
    detectors("evaluate", f"run={run}", *ALIKE)
detectors("compare", *RUNS.values(), "--output", str(OUTPUT / "comparison"))

# %% Draw what both find in images of the validation split: YOLOv2 above, SSD below
import matplotlib.pyplot as plt

from detectors import load

images = sorted((OUTPUT / "cache").rglob("val_*.jpg"))[:IMAGES]  # or images of your own
figure, axes = plt.subplots(len(RUNS), len(images), squeeze=False, figsize=(3 * len(images), 6))
for row, run in zip(axes, RUNS.values(), strict=True):
    for axis, found in zip(row, load(run).predict(images, score=0.3), strict=True):
        axis.imshow(plt.imread(found.path))
        axis.set_axis_off()
        for (left, top, right, bottom), name in zip(found.boxes_xyxy, found.names, strict=True):
            axis.add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, color="red"))
            axis.text(left, top, name, color="white", backgroundcolor="red", fontsize=7)
figure.savefig(OUTPUT / "found.png")
plt.show()
