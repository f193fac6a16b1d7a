"""Removes channels as a budget's end does, and compares the two files."""

from pathlib import Path
from unittest import mock

import numpy as np

import tflite_export
from tflite_export import trained_model
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.macs import count_macs, operator_macs
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


def counted_macs(path: Path) -> int | None:
    """Returns the multiply-accumulates of a file with kernels.

    Not those of a BatchNormalization that is left, as a 1x1 depthwise
    convolution: it has no kernel.
    """
    file = Flatbuffer(path.read_bytes())
    total = count_macs(file)
    for operator in file.operators:
        if total is not None and operator.name == "DEPTHWISE_CONV_2D":
            weights = file.tensor(0, operator.inputs[1])
            if weights.shape[1:3] == (1, 1):
                total -= operator_macs(file, operator) or 0
    return total
