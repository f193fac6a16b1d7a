"""SPLIT on integers, where the converter leaves it in float.

Where nothing reads one of the parts, as the forget gate in the first step of an
unrolled LSTM, the converter gives that part no range, and in about half of its
runs SPLIT stays between a DEQUANTIZE and QUANTIZEs. All have the same scale, so
the integers can be split themselves.
"""

import numpy as np

from tflite_export.flatbuffer import Flatbuffer
from tflite_export.graph import Operator

# SPLIT's second input; the first is the axis.
_VALUE = 1


def integer_file(data: bytes) -> Flatbuffer:
    """Reads a file, without the conversions around each SPLIT.

    Args:
        data: The bytes of a file from the converter.
    """
    file = Flatbuffer(data)
    while (found := _find(file)) is not None:
        split, dequantize, quantizes = found
        file.compute_on_integers(split, dequantize, _VALUE, quantizes)
    return file


def _find(
    file: Flatbuffer,
) -> tuple[Operator, Operator, list[Operator]] | None:
    """A SPLIT between conversions that it can do without, and these."""
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
    """Whether one makes the integers again that the other had."""
    if quantize.name != "QUANTIZE":
        return False
    before = file.tensor(dequantize.subgraph, dequantize.inputs[0])
    after = file.tensor(quantize.subgraph, quantize.outputs[0])
    return (
        before.dtype == after.dtype
        and np.array_equal(before.scales, after.scales)
        and np.array_equal(before.zero_points, after.zero_points)
    )
