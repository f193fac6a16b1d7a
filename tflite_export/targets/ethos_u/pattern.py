"""2:4 zeros along the input channels of a file, which Ethos-U85 skips."""

from typing import TYPE_CHECKING

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.weights.matching import match_slots
from tflite_export.weights.sites import weight_sites

if TYPE_CHECKING:
    from tflite_export.trained_model import TrainedModel

# Their weights have the input channels last: OHWI, or (out, in).
_OPERATORS = ("CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_GROUP, _KEPT = 4, 2


def has_two_of_four(codes: np.ndarray) -> bool:
    """Whether each 4 neighbours on the last axis have 2 non-zeros at most.

    Example:

    >>> has_two_of_four(np.array([[0, 3, -1, 0, 0, 0, 5, 0]]))
    True
    >>> has_two_of_four(np.array([[0, 3, -1, 2, 0, 0, 5, 0]]))
    False
    """
    if codes.shape[-1] % _GROUP:
        return False
    groups = np.count_nonzero(codes.reshape(-1, _GROUP), axis=1)
    return bool(groups.max(initial=0) <= _KEPT)


def pattern_notes(file: Flatbuffer, trained: "TrainedModel") -> list[str]:
    """Proves the pattern of the weights that were trained with it."""
    trained_so = {p for p, w in trained.weights.items() if w.sparsity_pattern}
    if not trained_so:
        return []
    sites = [s for s in weight_sites(file) if s.operator.name in _OPERATORS]
    matches = match_slots([site.slot for site in sites], trained.kernels)
    found = set()
    for site, match in zip(sites, matches, strict=True):
        if match is None or match.path not in trained_so:
            continue
        if not has_two_of_four(site.slot.codes):
            raise RuntimeError(
                "Expected at most 2 non-zeros in each 4 input channels of "
                f"{match.path!r}, which was trained so. Received: "
                f"{site.operator.name} {site.tensor.name!r} of shape "
                f"{site.slot.codes.shape} with more; the file was not "
                "written. This is a fault of the exporter: please report the "
                "model."
            )
        found.add(match.path)
    note = (
        f"{len(found)} of {len(trained_so)} weights trained with 2:4 zeros "
        "have them in the file, along the input channels. The cycles are "
        "those of Vela's model of the hardware, not of silicon."
    )
    missing = sorted(trained_so - found)
    if missing:
        note += f" Not in a convolution or Dense of the file: {missing}."
    return [note]
