"""Edits a file, one function each, by the steps of `Flatbuffer`."""

from collections.abc import Collection

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.operators import DECODE
from tflite_export.format.owners import BIAS_POSITIONS
from tflite_export.format.records import (
    NO_SCALES,
    Constant,
    InputSite,
    Operator,
)
from tflite_export.format.sparse import SparseTensor


def densify(
    file: Flatbuffer, subgraph: int, index: int, sparse: SparseTensor
) -> None:
    """Stores a constant sparsely; a DENSIFY operator makes it dense again."""
    stored = file.copy_tensor(subgraph, index, "")
    # The scales of the dense tensor count; a second copy is only larger.
    file.set_scales(subgraph, stored, NO_SCALES)
    file.write_sparse(subgraph, stored, sparse)
    file.insert(subgraph, 0, "DENSIFY", [stored], index)


def dequantize(
    file: Flatbuffer, subgraph: int, index: int, codes: Constant
) -> None:
    """Stores a float constant as int8 codes; a DEQUANTIZE makes it float."""
    stored = file.copy_tensor(subgraph, index, "")
    file.write(subgraph, stored, codes)
    file.insert(subgraph, 0, "DEQUANTIZE", [stored], index)


def insert_decode(
    file: Flatbuffer,
    subgraph: int,
    index: int,
    encoded: np.ndarray,
    tables: int,
) -> None:
    """Stores a constant as bytes that DECODE unpacks before each operator.

    `tables` is the tensor with the tables; the bytes have no scales, no name
    and the place of the constant. Each operator gets a DECODE of its own, so
    that the weights are in the arena only while it runs.
    """
    name = file.tensor(subgraph, index).name
    readers = [
        operator
        for operator in file.operators
        if operator.subgraph == subgraph and index in operator.inputs
    ]
    # The last one first, since operators after an inserted one move.
    for operator in reversed(readers):
        decoded = file.copy_tensor(
            subgraph, index, name if operator is readers[0] else None
        )
        for position, read in enumerate(operator.inputs):
            if read == index:
                site = InputSite(subgraph, operator.index, position)
                file.set_input(site, decoded)
        file.insert(subgraph, operator.index, DECODE, [index, tables], decoded)
    file.set_scales(subgraph, index, NO_SCALES)
    file.rename(subgraph, index, "")
    file.write(subgraph, index, Constant(encoded, NO_SCALES, 0))


def insert_pad(
    file: Flatbuffer, operator: Operator, margins: tuple[tuple[int, int], ...]
) -> None:
    """Pads an operator's first input with zeros; its own padding is then VALID.

    `margins` are the zeros before and after, for each axis of that input. The
    operator moves by one place.
    """
    subgraph, source = operator.subgraph, operator.inputs[0]
    padded = file.copy_tensor(subgraph, source)
    grown = np.array(file.tensor(subgraph, source).shape) + np.sum(margins, 1)
    file.set_shape(subgraph, padded, grown)
    amounts = file.add_constant(
        subgraph, "margins", np.array(margins, np.int32)
    )
    file.set_option(operator, "padding", "VALID")
    file.set_input(InputSite(subgraph, operator.index, 0), padded)
    file.insert(subgraph, operator.index, "PAD", [source, amounts], padded)


def replace_by_convolution(file: Flatbuffer, operator: Operator) -> None:
    """Writes a FULLY_CONNECTED as a CONV_2D of 1x1 between two RESHAPEs.

    Other operators that read its kernel must be FULLY_CONNECTED, and become
    convolutions too. The operators after it move by two places.
    """
    subgraph, at = operator.subgraph, operator.index
    source, kernel, *biases = operator.inputs
    result = operator.outputs[0]
    num_outputs, *_, num_inputs = file.tensor(subgraph, kernel).shape
    rows = int(np.prod(file.tensor(subgraph, source).shape)) // num_inputs
    wide = file.copy_tensor(subgraph, source)
    narrow = file.copy_tensor(subgraph, result)
    file.set_shape(subgraph, wide, (1, rows, 1, num_inputs))
    file.set_shape(subgraph, kernel, (num_outputs, 1, 1, num_inputs))
    file.set_shape(subgraph, narrow, (1, rows, 1, num_outputs))
    given = [index for index in biases if index >= 0]
    # Unlike FULLY_CONNECTED, a convolution of integers must have a bias.
    bias = given[0] if given else _add_zero_bias(file, subgraph, wide, kernel)
    file.remove([operator])
    _insert_reshape(file, subgraph, at, source, wide)
    file.insert(
        subgraph,
        at + 1,
        "CONV_2D",
        [wide, kernel, bias],
        narrow,
        padding="VALID",
        strideH=1,
        strideW=1,
        fusedActivationFunction=operator.options["fusedActivationFunction"],
    )
    _insert_reshape(file, subgraph, at + 2, narrow, result)


def join_equal_scales(file: Flatbuffer, operators: Collection[str]) -> None:
    """Gives weights whose channels have one scale a single one.

    `operators` are those that read one scale for all channels; other readers
    keep the weights as they are.
    """
    readers: dict[tuple[int, int], set[str]] = {}
    for operator in file.operators:
        for index in operator.inputs:
            key = operator.subgraph, index
            readers.setdefault(key, set()).add(operator.name)
    for (subgraph, index), names in readers.items():
        if index < 0 or not names <= set(operators):
            continue
        tensor = file.tensor(subgraph, index)
        is_equal = tensor.scales.size > 1 and np.ptp(tensor.scales) == 0
        if is_equal and not tensor.zero_points.any():
            file.set_scales(subgraph, index, tensor.scales[:1])


def drop_bias_scales(file: Flatbuffer, operators: Collection[str]) -> None:
    """Removes the scales of the biases that only such operators read.

    A bias has the scale of its operator's sums: that of the input times those
    of the weights.
    """
    read_otherwise, biases = set(), set()
    for operator in file.operators:
        for position, index in enumerate(operator.inputs):
            key = operator.subgraph, index
            is_bias = position == BIAS_POSITIONS.get(operator.name)
            if is_bias and operator.name in operators:
                biases.add(key)
            else:
                read_otherwise.add(key)
    for subgraph, index in biases - read_otherwise:
        if index >= 0:
            file.set_scales(subgraph, index, NO_SCALES)


def _add_zero_bias(
    file: Flatbuffer, subgraph: int, source: int, kernel: int
) -> int:
    """Adds the bias of a kernel that has none, with the scale of sums."""
    weights = file.tensor(subgraph, kernel)
    scales = file.tensor(subgraph, source).scales[0] * weights.scales
    zeros: np.ndarray = np.zeros(weights.shape[0], np.int32)
    return file.add_constant(subgraph, f"bias_{kernel}", zeros, scales)


def _insert_reshape(
    file: Flatbuffer, subgraph: int, position: int, source: int, result: int
) -> None:
    shape = np.array(file.tensor(subgraph, result).shape, np.int32)
    file.insert(subgraph, position, "RESHAPE", [source], result, newShape=shape)
