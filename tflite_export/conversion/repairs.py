"""Repairs faults of the converter in its file.

SPLIT stays in float if nothing reads one of its parts: that part has no range.
The forget gate in the first step of an unrolled LSTM is such a part. In about
half of the converter's runs SPLIT then stands between a DEQUANTIZE and
QUANTIZEs. All have the same scale, so the integers themselves can be split.

An operator that only moves integers cannot change their scale. The converter
gives the output of REVERSE_V2 another scale if a multiplication by a constant
and an addition follow. All later values are then wrong by that factor.
"""

from collections.abc import Collection

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import InputSite, Operator, Tensor

# SPLIT's second input; the first is the axis.
_VALUE = 1

# They copy integers of their first input.
_MOVING = {
    "BATCH_TO_SPACE_ND", "BROADCAST_TO", "DEPTH_TO_SPACE", "EXPAND_DIMS",
    "GATHER", "GATHER_ND", "RESHAPE", "REVERSE_V2", "SLICE",
    "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SQUEEZE", "STRIDED_SLICE", "TILE",
    "TRANSPOSE", "UNPACK",
}  # fmt: skip


def repaired_file(data: bytes) -> Flatbuffer:
    """Reads a file of the converter, and repairs both faults."""
    file = Flatbuffer(data)
    while (found := _find(file)) is not None:
        split, dequantize, quantizes = found
        compute_on_integers(file, split, dequantize, _VALUE, quantizes)
    for operator in file.operators:
        if operator.name in _MOVING and _changes_scale(file, operator):
            keep_scale(file, operator)
    return file


def compute_on_integers(
    file: Flatbuffer,
    operator: Operator,
    dequantize: Operator,
    position: int,
    quantizes: Collection[Operator],
) -> None:
    """Lets an operator move integers without the conversions around it.

    `dequantize` computes its input at `position`, and stays if others read that
    too. `quantizes` make integers of the same scale of its outputs, one for
    each output that is read.
    """
    subgraph, source = operator.subgraph, dequantize.inputs[0]
    restored = {o.inputs[0]: o.outputs[0] for o in quantizes}
    outputs = [restored.get(index, index) for index in operator.outputs]
    for index in set(outputs) - set(restored.values()):
        file.quantize_like(subgraph, index, source)
    file.set_outputs(operator, outputs)
    file.set_input(InputSite(subgraph, operator.index, position), source)
    floats = dequantize.outputs[0]
    is_read = any(
        floats in o.inputs for o in file.operators if o.subgraph == subgraph
    )
    file.remove([*quantizes, *([] if is_read else [dequantize])])


def keep_scale(file: Flatbuffer, operator: Operator) -> None:
    """Gives the outputs of an operator the scale of its first input."""
    for output in operator.outputs:
        file.quantize_like(operator.subgraph, output, operator.inputs[0])


def _changes_scale(file: Flatbuffer, operator: Operator) -> bool:
    """Whether an operator's outputs have another scale than its input."""
    source = file.tensor(operator.subgraph, operator.inputs[0])
    results = [file.tensor(operator.subgraph, o) for o in operator.outputs]
    return source.scales.size == 1 and any(
        result.dtype == source.dtype and not _is_same_scale(source, result)
        for result in results
    )


def _is_same_scale(first: Tensor, second: Tensor) -> bool:
    return np.array_equal(first.scales, second.scales) and np.array_equal(
        first.zero_points, second.zero_points
    )


def _find(
    file: Flatbuffer,
) -> tuple[Operator, Operator, list[Operator]] | None:
    """A SPLIT between needless conversions, and the conversions."""
    operators, (_, outputs) = file.operators, file.interface()
    for split in [o for o in operators if o.name == "SPLIT"]:
        near = [o for o in operators if o.subgraph == split.subgraph]
        sources = [o for o in near if split.inputs[_VALUE] in o.outputs]
        if [o.name for o in sources] != ["DEQUANTIZE"]:
            continue
        readers = [o for o in near if set(o.inputs) & set(split.outputs)]
        parts = {o.inputs[0] for o in readers}
        if (
            all(_is_inverse(file, o, sources[0]) for o in readers)
            and len(parts) == len(readers)
            and not set(split.outputs) & set(outputs)
        ):
            return split, sources[0], readers
    return None


def _is_inverse(
    file: Flatbuffer, quantize: Operator, dequantize: Operator
) -> bool:
    """Whether a QUANTIZE restores the integers before a DEQUANTIZE."""
    if quantize.name != "QUANTIZE":
        return False
    before = file.tensor(dequantize.subgraph, dequantize.inputs[0])
    after = file.tensor(quantize.subgraph, quantize.outputs[0])
    return before.dtype == after.dtype and _is_same_scale(before, after)
