"""Picture of docs/concepts/average-precision.md."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from detectors.metrics.voc import RECALL_POINTS, ap_11_point, ap_area
from docs.pictures.canvas import BLUE, GREY, ORANGE, panels

RIGHT = (1, 1, 0, 1, 0, 0, 1, 0, 1, 0)  # the ten detections of the page, the best score first
BOXES = 6


def precision_recall() -> Figure:
    """Precision against recall, the envelope, the eleven points, and both APs."""
    found = np.cumsum(RIGHT)
    recall, precision = found / BOXES, found / np.arange(1, len(RIGHT) + 1)
    figure, axes = panels(2, size=4.2)
    for ax in axes:
        ax.plot(recall, precision, "o-", color=BLUE, label="after each detection")
        ax.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(0, 1.08))
    edges = np.concatenate([[0.0], recall])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    axes[0].fill_between(edges, np.append(envelope[0], envelope), step="pre", color=ORANGE, alpha=0.3)
    axes[0].set_title(f"area (VOC2010): AP {ap_area(recall, precision):.3f}")
    heights = [precision[recall >= point].max(initial=0) for point in RECALL_POINTS]
    axes[1].vlines(RECALL_POINTS, 0, heights, color=ORANGE, linewidth=3, alpha=0.6)
    axes[1].plot(RECALL_POINTS, heights, "s", color=ORANGE, label="best precision at this recall or more")
    axes[1].set_title(f"eleven points (VOC2007): AP {ap_11_point(recall, precision):.3f}")
    for ax in axes:
        ax.axvline(recall[-1], color=GREY, linestyle=":")
        ax.legend(loc="lower left")
    return figure
