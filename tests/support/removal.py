"""Removes channels as a budget's end does, and compares the two files."""

import math
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

import tflite_export
from tflite_export import trained_model
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter

NUM_RANDOM_INPUTS = 200


def hold_part(qmodel, part: float) -> None:
    """Holds a part of each class, up to its next multiple."""
    gates = qmodel.channel_gates
    counts = np.ceil(part * gates.sizes / gates.multiple) * gates.multiple
    gates.held_counts.assign(np.minimum(counts, gates.sizes))


def num_shrunk(qmodel) -> tuple[int, int]:
    """Returns how many classes have lost channels, and how many there are."""
    gates = qmodel.channel_gates
    return int((gates.counts() < gates.sizes).sum()), len(gates.sizes)


def export_both(qmodel, folder: Path, **options):
    """Returns the results of `export` with and without removed channels.

    The former has zeros in their place.
    """

    def as_it_is(model):
        return model, ()

    with mock.patch.object(trained_model, "_without_channels", as_it_is):
        whole = tflite_export.export(qmodel, folder / "whole.tflite", **options)
    small = tflite_export.export(qmodel, folder / "small.tflite", **options)
    return whole, small


def random_outputs(path: Path) -> list[np.ndarray]:
    """Returns the integers that a file gives for random integers."""
    data = path.read_bytes()
    inputs = interpreter.random_inputs(Flatbuffer(data), NUM_RANDOM_INPUTS)
    return list(interpreter.run(data, inputs).values())


def have_equal_outputs(whole, small) -> bool:
    """Whether two files give the same integers, which are not all alike."""
    pairs = zip(
        random_outputs(whole.path), random_outputs(small.path), strict=True
    )
    return all(
        left.std() > 0 and np.array_equal(left, right) for left, right in pairs
    )


def counted_macs(path: Path) -> int:
    """Returns the multiply-accumulates of a file, from its shapes."""
    file = Flatbuffer(path.read_bytes())
    total = 0
    for operator in file.operators:
        rule = _MACS.get(operator.name)
        if rule is not None:
            total += rule(
                *(
                    file.tensor(0, i).shape
                    for i in operator.inputs[:3]
                    if i >= 0
                ),
                outputs=file.tensor(0, operator.outputs[0]).shape,
            )
    return total


def _of_filters(values, weights, *bias, outputs) -> int:
    return math.prod(outputs) * math.prod(weights[1:])


def _of_depthwise(values, weights, *bias, outputs) -> int:
    size = math.prod(weights[1:3])
    return math.prod(outputs) * size if size > 1 else 0


def _of_transposed(size, weights, values, *bias, outputs) -> int:
    return math.prod(values) * math.prod(weights[:3])


_MACS: dict[str, Callable[..., int]] = {
    "CONV_2D": _of_filters,
    "FULLY_CONNECTED": _of_filters,
    "DEPTHWISE_CONV_2D": _of_depthwise,
    "TRANSPOSE_CONV": _of_transposed,
}
