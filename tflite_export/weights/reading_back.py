"""Reads the codes back from a file: are they the trained ones?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.weights import matching
from tflite_export.weights.metadata import read_silent_channels
from tflite_export.weights.records import Match, Slot
from tflite_export.weights.resemblance import resembles
from tflite_export.weights.sites import embedding_sites, weight_sites

if TYPE_CHECKING:
    from codeq_keras import QuantizedWeight


def unequal_weights(
    file: Flatbuffer,
    weights: Mapping[str, "QuantizedWeight"],
    kernels: Mapping[str, np.ndarray],
) -> list[str]:
    """Returns the paths of the trained weights whose codes the file lacks.

    A changed copy of codes counts too if an operator reads it. `kernels` are
    those of `TrainedModel`. The file's record says how many channels may hold
    zeros instead.
    """
    silent_channels = read_silent_channels(file)
    sites = [*weight_sites(file), *embedding_sites(file)]
    whole = [site.slot for site in sites]
    found = matching.match_windows(whole, kernels)
    matches = [match for _, match in found]
    slots = [
        matching.windowed(slot, window)
        for slot, (window, _) in zip(whole, found, strict=True)
    ]
    equal: set[str] = set()
    unequal: set[str] = set()
    for slot, match in zip(slots, matches, strict=True):
        if match is None:
            unequal.update(
                path for path in weights if resembles(slot, kernels[path])
            )
        elif match.path in weights:
            allowed = silent_channels.get(match.path, 0)
            is_equal = _is_equal(slot, match, allowed)
            (equal if is_equal else unequal).add(match.path)
    for path in weights.keys() - equal - unequal:
        fits = [matching.fit_kernel(s, path, kernels[path]) for s in slots]
        allowed = silent_channels.get(path, 0)
        if not any(
            fit is not None and _is_equal(slot, fit, allowed)
            for slot, fit in zip(slots, fits, strict=True)
        ):
            unequal.add(path)
    return [path for path in weights if path in unequal]


def _is_equal(slot: Slot, match: Match, allowed_silent: int) -> bool:
    if match.num_silent_rows > allowed_silent:
        return False
    held = matching.as_rows(slot.codes, slot.axis)
    codes = matching.as_rows(match.codes, slot.axis)
    is_silent = np.isnan(match.gains)
    return bool(np.array_equal(held[~is_silent], codes[~is_silent]))
