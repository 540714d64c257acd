"""The rows of a detector's last layers that belong to classes, copied by the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from detectors.models.detector import Detector
from detectors.training.initial.named_weights import NamedWeights
from detectors.training.transfer import Transfer

CLASSES_SHOWN = 8


def class_layers(detector: Detector) -> dict[str, int]:
    """Parameter with rows of classes -> how many entries of an anchor stand before those."""
    parameters = dict(detector.named_parameters())
    return {
        name: layer.shared
        for layer in detector.output_layers()
        if layer.shared is not None
        for name in (f"{layer.name}.weight", f"{layer.name}.bias")
        if name in parameters
    }


def copy_class_rows(
    transfer: Transfer,
    weights: NamedWeights,
    layers: dict[str, int],
    *,
    classes: Sequence[str],
) -> None:
    """Fills the parameters `layers` of transfer.state with the file's rows of the same class names.

    Entries that stand before an anchor's classes (box, objectness, background) are copied, too. layers: see
    class_layers. classes: of the detector.
    """
    for name, shared in layers.items():
        source = weights.tensors.get(name)
        if source is None:
            transfer.left[name] = "not in the file"
            continue
        rows = _rows_by_name(transfer.state[name], source, shared, ours=classes, theirs=weights.class_names)
        if rows is None:
            transfer.left[name] = "the file's has another size"
        else:
            transfer.state[name] = rows
            transfer.partly[name] = kept_classes(classes, weights.class_names)


def kept_classes(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """'what all classes share, and 2 of 3 classes by name: a, b; initialised: c'"""
    kept = [name for name in ours if name in theirs]
    fresh = [name for name in ours if name not in theirs]
    parts = [f"what all classes share, and {len(kept)} of {len(ours)} classes by name{_listed(kept)}"]
    if fresh:
        parts.append(f"initialised{_listed(fresh)}")
    return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - CLASSES_SHOWN} more" if len(names) > CLASSES_SHOWN else ""
    return f": {', '.join(names[:CLASSES_SHOWN])}{more}" if names else ""


def _rows_by_name(
    own: Tensor, source: Tensor, shared: int, *, ours: Sequence[str], theirs: Sequence[str]
) -> Tensor | None:
    """(K * (shared + C), ...) with the rows of (K * (shared + C'), ...) that fit.

    None for another K or size.
    """
    anchors = own.shape[0] // (shared + len(ours))
    if source.shape != (anchors * (shared + len(theirs)), *own.shape[1:]):
        return None
    result = own.detach().clone().unflatten(0, (anchors, shared + len(ours)))
    rows = source.detach().to(own.dtype).unflatten(0, (anchors, shared + len(theirs)))
    result[:, :shared] = rows[:, :shared]
    for column, name in enumerate(ours):
        if name in theirs:
            result[:, shared + column] = rows[:, shared + theirs.index(name)]
    return result.flatten(0, 1)
