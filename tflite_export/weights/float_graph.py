"""Writes the trained integers into a file that computes in float32.

Each kernel becomes an int8 constant with a scale for each output channel, in
front of a DEQUANTIZE, which runtimes unpack once, when they load the file.
"""

from collections.abc import Mapping

import numpy as np

from tflite_export.format.edits import dequantize
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Constant
from tflite_export.weights import matching
from tflite_export.weights.integer_graph import (
    TrainedWeight,
    WrittenWeights,
    require_all_found,
    silent_channel_notes,
)
from tflite_export.weights.sites import WeightSite, float_weight_sites

# float32 rounding of `code * scale * gain`, along the converter's way.
ROUNDING = 1e-5


def write_float_codes(
    file: Flatbuffer,
    trained: Mapping[str, TrainedWeight],
    kernels: Mapping[str, np.ndarray],
) -> WrittenWeights:
    """Replaces the float kernels of a file by the trained integers, in place.

    Args:
        file: The converted file, in float32; it is changed.
        trained: The trained weights by path.
        kernels: All weights of the model by path, in its order: the codes of
            the trained ones, the values of the others, which stay in float.

    Returns:
        The notes for the user and the channels without a gain.

    Raises:
        ValueError: If a trained weight is not in the file, or is there in a
            form that its codes cannot express.
    """
    sites = float_weight_sites(file)
    found = matching.match_windows([site.slot for site in sites], kernels)
    require_all_found(file, sites, [match for _, match in found], trained)
    constants: dict[tuple[int, int], Constant] = {}
    notes = []
    silent: dict[str, int] = {}
    for site, (window, match) in zip(sites, found, strict=True):
        key = (site.site.subgraph, site.tensor.index)
        if match is None or match.path not in trained:
            name = site.tensor.short_name if match is None else match.path
            notes.append(f"{name!r} was not quantized: it is float32 here.")
            continue
        constants[key] = _constant(site, window, match)
        if match.num_silent_rows:
            silent[match.path] = max(
                silent.get(match.path, 0), match.num_silent_rows
            )
    for (subgraph, index), constant in constants.items():
        dequantize(file, subgraph, index, constant)
    notes += silent_channel_notes(silent)
    return WrittenWeights(list(dict.fromkeys(notes)), silent)


def _constant(
    site: WeightSite, window: matching.Window, match: matching.Match
) -> Constant:
    """The codes in the tensor's shape, and the scale of each channel."""
    axis, values = site.slot.axis, site.tensor.data
    if axis is None or values is None:
        raise TypeError(f"No axis or no values: {site.tensor.name!r}.")
    rows = matching.as_rows(match.codes, axis)
    codes = np.zeros(values.shape, np.int8)
    codes[window] = matching.from_rows(
        np.where(np.isnan(match.gains)[:, None], 0, rows).astype(np.int8),
        axis,
        match.codes.shape,
    )
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
