"""KernelGate: what is left of one kernel when channels are removed."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from keras import ops

from codeq_keras.architecture.kernels import Kernel


@dataclasses.dataclass(frozen=True)
class GatedAxis:
    """An axis of a kernel that shrinks with classes.

    Attributes:
        axis: Its number.
        places: The place of each position in the flat gates, where the last
            one is that of all channels that stay.
        weights: Positions of each class, as a part of the axis for a channel.
        constant: The part of the axis that stays.
    """

    axis: int
    places: np.ndarray
    weights: np.ndarray
    constant: float


@dataclasses.dataclass(frozen=True)
class GateParts:
    """All that one step asks of the gates."""

    reading: Any  # 1 or 0 for each channel, differentiable.
    writing: Any  # The same for those that compute it.
    writing_in_training: Any  # 1 where a channel may come back.
    kept: list[Any]  # The part of the MACs of each gate, differentiable.
    written: list[Any]  # The part of its outputs, likewise.


# Of one axis of each gate, the constants, and the weights of the classes.
AxesOfGates = list[tuple[np.ndarray, np.ndarray]]


def axes_of_gates(gates: Sequence[Sequence[GatedAxis]]) -> AxesOfGates:
    """The first axes of all gates, the second ones, and so on."""
    num_classes = len(next(axes[0].weights for axes in gates if axes))
    # A gate of fewer axes has a factor of 1.
    nothing = GatedAxis(0, np.zeros(0), np.zeros(num_classes), 1.0)
    found = []
    for index in range(max(map(len, gates))):
        row = [a[index] if index < len(a) else nothing for a in gates]
        constants = np.array([axis.constant for axis in row], "float32")
        weights = np.stack([axis.weights for axis in row], axis=-1)
        found.append((constants, weights.astype("float32")))
    return found


def parts_left(axes: AxesOfGates, counts: Any) -> Any:
    """The part of each gate that is left, for counts on the last axis."""
    parts = [
        constants + ops.matmul(counts, weights) for constants, weights in axes
    ]
    return functools.reduce(ops.multiply, parts)


class _Gates(Protocol):
    def parts(self) -> GateParts: ...


class KernelGate:
    """What is left of one kernel when channels are removed."""

    def __init__(
        self,
        gates: _Gates,
        index: int,
        kernel: Kernel,
        axes: Sequence[GatedAxis],
        reads: int | None,
    ) -> None:
        self.gates, self.index, self.kernel = gates, index, kernel
        self.axes = tuple(axes)
        self.reads = reads
        self.written = [axis for axis in self.axes if axis.axis != reads]

    def masked(self, weights: Any, *, training: bool = False) -> Any:
        """The weights, 0 in the channels that are removed.

        Straight-through, as the zeros of a kernel: all weights learn. In
        training the producers of a removed channel go on, so that it may come
        back, until the channels are held.
        """
        weights = ops.convert_to_tensor(weights)
        parts = self.gates.parts()
        others = parts.writing_in_training if training else parts.writing
        factor: Any = 1.0
        for axis in self.axes:
            is_read = axis.axis == self.reads
            gates = ops.take(parts.reading if is_read else others, axis.places)
            shape = [1] * len(weights.shape)
            shape[axis.axis] = -1
            factor = factor * ops.reshape(gates, shape)
        factor = ops.cast(factor, weights.dtype)
        return weights + ops.stop_gradient(weights) * (factor - 1.0)

    def kept(self) -> Any:
        """The part of the multiply-accumulates that is left."""
        return self.gates.parts().kept[self.index]

    def kept_outputs(self) -> Any:
        """The part of the outputs that is left."""
        return self.gates.parts().written[self.index]

    def energies(self, values: Sequence[Any]) -> Any:
        """The part of its outputs that each position of its input adds.

        The squares of a slice, weighted with the variance of what it reads:
        behind a BatchNormalization weights alone mean nothing, and biases
        take over the mean of a channel that is removed.
        """
        weights = self.kernel.variable
        quantizer = getattr(self.kernel, "quantizer", None)
        weights = quantizer(weights) if quantizer else weights
        squares = ops.square(ops.cast(weights, "float32"))
        others = [i for i in range(len(squares.shape)) if i != self.reads]
        found = ops.sum(squares, axis=others)
        if values:
            found = found * sum(map(_variance, values))
        return ops.divide_no_nan(found, ops.sum(found))


def _variance(value: Any) -> Any:
    value = ops.cast(ops.stop_gradient(value), "float32")
    return ops.var(value, axis=list(range(len(value.shape) - 1)))
