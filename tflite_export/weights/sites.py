"""Lists the places where a file holds weights."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tflite_export.format.damaged import DamagedFileError
from tflite_export.format.decoding import decoded_constants
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.operators import UNPACKING
from tflite_export.format.owners import BIAS_POSITIONS
from tflite_export.format.records import InputSite, Operator, Tensor
from tflite_export.format.sparse import decode_sparse
from tflite_export.weights.matching import (
    MAX_CODE,
    TOLERANCE,
    as_rows,
    from_rows,
)
from tflite_export.weights.records import Slot, WeightSite

if TYPE_CHECKING:
    from codeq_keras import QuantizedWeight


class _Inputs(NamedTuple):
    """Positions of an operator's weights, and the axis of its outputs."""

    weights: tuple[int, ...]
    axis: int | None


WEIGHTED_OPERATORS = {
    "CONV_2D": _Inputs((1,), 0),
    "DEPTHWISE_CONV_2D": _Inputs((1,), 3),
    "FULLY_CONNECTED": _Inputs((1,), 0),
    "TRANSPOSE_CONV": _Inputs((1,), 0),
    "BATCH_MATMUL": _Inputs((0, 1), None),
}
EMBEDDING_OPERATORS = {
    "GATHER": _Inputs((0,), None),
    # Of constant positions: the converter has computed their GATHER.
    "ADD": _Inputs((0, 1), None),
}


def weight_sites(file: Flatbuffer) -> list[WeightSite]:
    """Returns every place of the file that may hold a kernel."""
    return _sites(file, WEIGHTED_OPERATORS)


def embedding_sites(
    file: Flatbuffer, weights: "Mapping[str, QuantizedWeight] | None" = None
) -> list[WeightSite]:
    """Returns every place of the file that may hold an Embedding's table.

    The converter rounds it like an activation, with one scale and a zero
    point. The slot has its integers without the zero point, as int16. Those
    that it clipped are restored for the tables among `weights`.
    """
    sites = [
        site._replace(
            slot=site.slot._replace(
                codes=site.slot.codes.astype(np.int16)
                - site.tensor.zero_points.astype(np.int16)
            )
        )
        for site in _sites(file, EMBEDDING_OPERATORS)
        if site.tensor.scales.size == site.tensor.zero_points.size == 1
    ]
    return [_unclipped(site, weights or {}) for site in sites]


def _unclipped(
    site: WeightSite, weights: Mapping[str, "QuantizedWeight"]
) -> WeightSite:
    """A table with the values that the converter clipped to a trained range.

    The range has seen no word with them. The lookup is clipped to it again.
    """
    zero_point = site.tensor.zero_points[0]
    for weight in weights.values():
        is_table = weight.codes.shape == site.slot.codes.shape
        if not is_table or np.size(weight.scale) != 1:
            continue
        ratio = np.float64(np.squeeze(weight.scale)) / site.tensor.scales[0]
        words = np.round(weight.codes * ratio)
        clipped = np.clip(words, -128 - zero_point, 127 - zero_point)
        distance = np.abs(clipped - site.slot.codes).max(initial=0)
        if distance <= TOLERANCE and np.any(words != clipped):
            codes = np.clip(words, -(2**15), 2**15 - 1).astype(np.int16)
            return site._replace(slot=site.slot._replace(codes=codes))
    return site


def _sites(file: Flatbuffer, operators: dict[str, _Inputs]) -> list[WeightSite]:
    sites = []
    unpacked = unpacked_constants(file) | decoded_constants(file).tensors
    for operator in file.operators:
        inputs = operators.get(operator.name, _Inputs((), None))
        for position in inputs.weights:
            key = (operator.subgraph, operator.inputs[position])
            tensor = unpacked.get(key) or file.tensor(*key)
            if tensor.data is None or tensor.dtype not in ("int8", "int4"):
                continue
            is_per_channel = tensor.scales.size > 1
            axis = tensor.axis if is_per_channel else inputs.axis
            sites.append(
                WeightSite(
                    operator,
                    InputSite(operator.subgraph, operator.index, position),
                    tensor,
                    Slot(operator.name, tensor.data, axis),
                    _constant_bias(file, operator),
                )
            )
    return sites


def float_weight_sites(file: Flatbuffer) -> list[WeightSite]:
    """Returns every place that holds float32 weights, each tensor once.

    The slots hold them as an int8 file would, before rounding: each channel is
    stretched to 127.
    """
    sites: dict[tuple[int, int], WeightSite] = {}
    for operator in file.operators:
        inputs = WEIGHTED_OPERATORS.get(operator.name, _Inputs((), None))
        for position in inputs.weights:
            key = (operator.subgraph, operator.inputs[position])
            tensor = file.tensor(*key)
            if tensor.data is None or tensor.dtype != "float32":
                continue
            if inputs.axis is None or len(tensor.shape) < 2:
                continue
            rows = as_rows(tensor.data, inputs.axis)
            peaks = np.abs(rows).max(axis=1, keepdims=True, initial=0)
            peaks = np.where(peaks > 0, peaks, 1)
            values = from_rows(
                rows / peaks * MAX_CODE, inputs.axis, tensor.shape
            )
            sites[key] = WeightSite(
                operator,
                InputSite(operator.subgraph, operator.index, position),
                tensor,
                Slot(operator.name, values, inputs.axis),
                _constant_bias(file, operator),
            )
    return list(sites.values())


def unpacked_constants(
    file: Flatbuffer,
) -> dict[tuple[int, int], Tensor]:
    """Returns the stored tensor of each constant that operators unpack.

    DENSIFY makes a sparse constant dense, DEQUANTIZE an integer one float;
    the second may follow the first. The keys are the subgraph and index of the
    tensor that the last operator computes, the values the dense integers.
    """
    stored: dict[tuple[int, int], Tensor] = {}
    for operator in file.operators:
        if operator.name not in UNPACKING:
            continue
        source = (operator.subgraph, operator.inputs[0])
        key = (operator.subgraph, operator.outputs[0])
        tensor = stored.get(source) or file.tensor(*source)
        output = file.tensor(*key)
        if operator.name == "DENSIFY" and tensor.sparse is not None:
            # The scales are those of the dense tensor.
            dense = decode_sparse(tensor.sparse)
            unpacked = dataclasses.replace(
                output, data=dense, size_bytes=tensor.size_bytes
            )
        elif operator.name == "DEQUANTIZE" and tensor.data is not None:
            unpacked = tensor
        else:
            continue
        if output.shape != tensor.shape:
            raise DamagedFileError(
                f"a {operator.name} from shape {tensor.shape} to {output.shape}"
            )
        stored[key] = unpacked
    return stored


def _constant_bias(
    file: Flatbuffer, operator: Operator
) -> tuple[InputSite, Tensor] | None:
    position = BIAS_POSITIONS.get(operator.name)
    if position is None or position >= len(operator.inputs):
        return None
    index = operator.inputs[position]
    if index < 0:
        return None
    tensor = file.tensor(operator.subgraph, index)
    site = InputSite(operator.subgraph, operator.index, position)
    return (site, tensor) if tensor.data is not None else None
