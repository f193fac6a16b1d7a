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
    # From the last, since operators behind a removed one move.
    for split in reversed(file.operators):
        if split.name != "SPLIT":
            continue
        operators = [o for o in file.operators if o.subgraph == split.subgraph]
        sources = [o for o in operators if split.inputs[_VALUE] in o.outputs]
        readers = [o for o in operators if set(o.inputs) & set(split.outputs)]
        is_between = [o.name for o in sources] == ["DEQUANTIZE"] and all(
            _is_inverse(file, o, sources[0]) for o in readers
        )
        parts = [o.inputs[0] for o in readers]
        is_output = set(split.outputs) & set(file.interface()[1])
        if is_between and len(set(parts)) == len(parts) and not is_output:
            file.compute_on_integers(split, sources[0], _VALUE, readers)
    return file


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
