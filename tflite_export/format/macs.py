"""Counts the multiply-accumulates of a file from its operators and shapes."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tflite_export.format.damaged import DamagedFileError
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.operators import DECODE
from tflite_export.format.records import Operator

Shape = tuple[int, ...]

# Operators whose shapes do not tell how often they multiply: those that run
# other subgraphs, and fused ones. So are custom ones.
_UNKNOWN = (
    *("WHILE", "IF", "CALL", "CALL_ONCE", "STABLEHLO_WHILE"),
    *("LSTM", "RNN", "SVDF", "BIDIRECTIONAL_SEQUENCE_LSTM"),
    *("BIDIRECTIONAL_SEQUENCE_RNN", "UNIDIRECTIONAL_SEQUENCE_LSTM"),
    *("UNIDIRECTIONAL_SEQUENCE_RNN", "STABLEHLO_DOT_GENERAL"),
    *("STABLEHLO_CONVOLUTION", "STABLEHLO_COMPOSITE"),
)


def count_macs(file: Flatbuffer) -> int | None:
    """Returns the multiply-accumulates of one run of the main subgraph.

    Zeros count, the additions of a bias do not. Open sizes count as 1. None
    where an operator does not tell: a custom one, as a device's compiler
    writes, a fused recurrent one, or a loop.
    """
    total = 0
    for operator in file.operators:
        if operator.subgraph:
            continue
        count = operator_macs(file, operator)
        if count is None:
            return None
        total += count
    return total


def operator_macs(file: Flatbuffer, operator: Operator) -> int | None:
    """Returns the multiply-accumulates of an operator; None if unknown."""
    if operator.name == DECODE:
        return 0  # It unpacks weights.
    if operator.is_custom or operator.name in _UNKNOWN:
        return None
    rule = _RULES.get(operator.name)
    if rule is None:
        return 0
    inputs = operator.inputs
    if max(rule.activation, rule.weights) >= len(inputs):
        raise DamagedFileError(f"a {operator.name} without its inputs")
    read = [inputs[rule.activation], inputs[rule.weights]]
    shapes = [
        file.tensor(operator.subgraph, index).shape
        for index in (*read, *operator.outputs[:1])
        if index >= 0
    ]
    if len(shapes) < 3 or any(len(s) < rule.rank for s in shapes[:2]):
        raise DamagedFileError(f"a {operator.name} of shapes {shapes}")
    return rule.products(operator, shapes)


def _conv(operator: Operator, shapes: Sequence[Shape]) -> int:
    """Each output sums over its filter, of shape (out, ..., in)."""
    _, weights, outputs = shapes
    return math.prod(outputs) * math.prod(weights[1:])


def _conv_3d(operator: Operator, shapes: Sequence[Shape]) -> int:
    """Of a filter of shape (depth, height, width, in, out)."""
    _, weights, outputs = shapes
    return math.prod(outputs) * math.prod(weights[:-1])


def _depthwise(operator: Operator, shapes: Sequence[Shape]) -> int:
    """Each output sums over its filter, of shape (1, height, width, out)."""
    _, weights, outputs = shapes
    return math.prod(outputs) * math.prod(weights[1:3])


def _transposed(operator: Operator, shapes: Sequence[Shape]) -> int:
    """Each input meets its filter, of shape (out, height, width, in)."""
    inputs, weights, _ = shapes
    return math.prod(inputs) * math.prod(weights[:3])


def _transposed_3d(operator: Operator, shapes: Sequence[Shape]) -> int:
    """Of a filter of shape (depth, height, width, out, in)."""
    inputs, weights, _ = shapes
    return math.prod(inputs) * math.prod(weights[:4])


def _matmul(operator: Operator, shapes: Sequence[Shape]) -> int:
    """Each output sums over the inner axis of the left matrix."""
    left, _, outputs = shapes
    inner = left[-2 if operator.options.get("adjX") else -1]
    return math.prod(outputs) * inner


class _Rule(NamedTuple):
    """The places of an operator's inputs, their least rank, the number."""

    activation: int
    weights: int
    rank: int
    products: Callable[[Operator, Sequence[Shape]], int]


_RULES = {
    "CONV_2D": _Rule(0, 1, 4, _conv),
    "DEPTHWISE_CONV_2D": _Rule(0, 1, 4, _depthwise),
    "FULLY_CONNECTED": _Rule(0, 1, 1, _conv),
    "TRANSPOSE_CONV": _Rule(2, 1, 4, _transposed),
    "CONV_3D": _Rule(0, 1, 5, _conv_3d),
    "CONV_3D_TRANSPOSE": _Rule(2, 1, 5, _transposed_3d),
    "BATCH_MATMUL": _Rule(0, 1, 2, _matmul),
}
