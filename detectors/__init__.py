"""YOLOv2 and SSD, trainable side by side. docs/api.md shows the library, `detectors --help` the commands.

Importing the package is quick: each public name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detectors.commands.predict.predictor import Prediction, Predictor, load
    from detectors.models.detector import Detector
    from detectors.models.ssd import ssd160, ssd300, ssd512
    from detectors.models.yolov2 import yolov2, yolov2_tiny
    from detectors.structures import Targets

__version__ = "0.1.0"  # of pyproject.toml, too; docs/CHANGELOG.md says what it means
_PLACES = {
    "load": "detectors.commands.predict.predictor",
    "Predictor": "detectors.commands.predict.predictor",
    "Prediction": "detectors.commands.predict.predictor",
    "Detector": "detectors.models.detector",
    "Targets": "detectors.structures",
    "yolov2": "detectors.models.yolov2",
    "yolov2_tiny": "detectors.models.yolov2",
    "ssd300": "detectors.models.ssd",
    "ssd512": "detectors.models.ssd",
    "ssd160": "detectors.models.ssd",
}
__all__ = [
    "Detector",
    "Prediction",
    "Predictor",
    "Targets",
    "load",
    "ssd160",
    "ssd300",
    "ssd512",
    "yolov2",
    "yolov2_tiny",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
