"""Writes the trained codes into a file that computes in float32.

Each kernel becomes an int8 constant with a scale for each output channel, and
a DEQUANTIZE. Runtimes unpack it once, when they load the file.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tflite_export.format.edits import dequantize
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Constant
from tflite_export.weights import explaining, matching
from tflite_export.weights.records import (
    Match,
    WeightSite,
    Window,
    WrittenWeights,
)
from tflite_export.weights.sites import float_weight_sites

if TYPE_CHECKING:
    from codeq_keras import QuantizedWeight

# float32 rounding of `code * scale * gain` in the converter.
ROUNDING = 1e-5


def write_float_codes(
    file: Flatbuffer,
    weights: Mapping[str, "QuantizedWeight"],
    kernels: Mapping[str, np.ndarray],
) -> WrittenWeights:
    """Replaces the float kernels of a file by the trained codes, in place.

    `kernels` are those of `TrainedModel`; kernels that were not trained stay in
    float. Codes that the file cannot hold are an error.
    """
    sites = float_weight_sites(file)
    found = matching.match_windows([site.slot for site in sites], kernels)
    explaining.require_all_found(
        file, sites, [match for _, match in found], weights
    )
    constants: dict[tuple[int, int], Constant] = {}
    notes = []
    silent: dict[str, int] = {}
    for site, (window, match) in zip(sites, found, strict=True):
        if match is None or match.path not in weights:
            name = site.tensor.short_name if match is None else match.path
            notes.append(f"{name!r} was not quantized: it is float32 here.")
            continue
        constants[site.key] = _constant(site, window, match)
        if match.num_silent_rows:
            silent[match.path] = max(
                silent.get(match.path, 0), match.num_silent_rows
            )
    for (subgraph, index), constant in constants.items():
        dequantize(file, subgraph, index, constant)
    notes += explaining.silent_channel_notes(silent)
    return WrittenWeights(list(dict.fromkeys(notes)), silent)


def _constant(site: WeightSite, window: Window, match: Match) -> Constant:
    """The codes in the tensor's shape, and the scale of each channel."""
    axis, values = site.slot.axis, site.tensor.data
    if axis is None or values is None:
        raise TypeError(
            "A float weight must have values and an axis. Received: "
            f"{site.tensor.name!r}."
        )
    codes = np.zeros(values.shape, np.int8)
    codes[window] = matching.written_codes(match, axis)
    held: np.ndarray = matching.as_rows(values, axis).astype(np.float64)
    integers: np.ndarray = matching.as_rows(codes, axis).astype(np.float64)
    power = np.einsum("ij,ij->i", integers, integers)
    products = np.einsum("ij,ij->i", held, integers)
    # Any scale is right for a channel of zeros.
    scales = np.divide(
        products, power, out=np.ones_like(power), where=power > 0
    )
    error = np.abs(held - scales[:, None] * integers).max(axis=1)
    if np.any(error > ROUNDING * np.abs(held).max(axis=1)):
        raise ValueError(
            "Each output channel of the converted file must be its trained "
            f"codes times one number. Received: {match.path!r}, where they "
            f"differ by {error.max():.3g}. This is a fault of the exporter: "
            "please report the model."
        )
    return Constant(codes, scales.astype(np.float32), axis)
