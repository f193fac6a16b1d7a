"""ChannelGates: the group dead zones that remove channels in training."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.architecture.channels import (
    ChannelClass,
    ChannelMap,
    channel_positions,
)
from codeq_keras.architecture.kernels import Kernel
from codeq_keras.ops import channels as math_of
from codeq_keras.ops.grids import ratio_from_logit
from codeq_keras.quantizers.kernel_gate import (
    AxesOfGates,
    GatedAxis,
    GateParts,
    KernelGate,
    axes_of_gates,
    parts_left,
)
from codeq_keras.quantizers.logits import Logit

# Stands for a class whose channels no training holds.
_FREE = -1.0

# Where a class starts, as a kernel: both go the same way under one budget.
# Nothing is removed before a budget lets it.
_INITIAL_LOGIT = 3.0

# No class falls below this part of its channels: one that collapses takes the
# network with it.
_LEAST_PART = 0.25

# How much of an energy one refresh replaces, after the first.
_RATE = 0.3


def reason_to_stay(found: ChannelClass, multiple: int) -> str | None:
    """Why a class keeps all channels; None if it may lose some."""
    if found.frozen is None and found.size <= multiple:
        return f"no more than one `channel_multiple`, {multiple}"
    return found.frozen


class ChannelGates(keras.layers.Layer):
    """One dead zone for each class of channels, over their order.

    A class is a set of channel axes that must shrink together. Its channels
    are in the order of the energy that each adds to the outputs of the kernels
    that read it. The last ones are removed, the part `1 - |tanh(theta)|` of
    them to the nearest multiple: their slices of all readers are zero. So
    classes shrink alike, but for what the task asks.

    Args:
        channels: The classes of a model.
        kernels: Its kernels.
        multiple: Classes keep a multiple of it.
    """

    def __init__(
        self,
        channels: ChannelMap,
        kernels: Sequence[Kernel],
        multiple: int,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.channels, self.multiple = channels, multiple
        self.numbers = [
            number
            for number, found in enumerate(channels.classes)
            if self.reason(number) is None
        ]
        sizes = [channels.classes[number].size for number in self.numbers]
        self.sizes: np.ndarray = np.array(sizes, "float32")
        least = np.ceil(_LEAST_PART * self.sizes / multiple) * multiple
        self.floors: np.ndarray = np.minimum(least, self.sizes)
        self._width = max(sizes, default=1)
        self.by_kernel: dict[int, KernelGate] = {}
        for kernel in kernels:
            axes = self._axes(kernel)
            if axes:
                index = len(self.by_kernel)
                reads = channels.reads.get(id(kernel.variable))
                self.by_kernel[id(kernel.variable)] = KernelGate(
                    self, index, kernel, axes, reads
                )
        self._macs: np.ndarray = np.array(
            [gate.kernel.num_macs or 0 for gate in self.by_kernel.values()],
            "float32",
        )
        self._all_macs = sum(kernel.num_macs or 0 for kernel in kernels)
        self.trained: np.ndarray = np.ones(len(sizes), "float32")
        self._parts: GateParts | None = None
        self._seen: dict[int, Any] = {}
        self.build()

    def reason(self, number: int) -> str | None:
        """Why a class keeps all channels; None if it may lose some."""
        return reason_to_stay(self.channels.classes[number], self.multiple)

    def frozen_by(self, number: int) -> str | None:
        """The path of a kernel of a class that is not in training."""
        return self._frozen().get(number)

    def _frozen(self) -> dict[int, str]:
        """A kernel of each class with one that is not in training."""
        found: dict[int, str] = {}
        for gate in self.by_kernel.values():
            if gate.kernel.variable.trainable:
                continue
            for axis in gate.axes:
                for row in np.flatnonzero(axis.weights):
                    found.setdefault(self.numbers[row], gate.kernel.path)
        return found

    def _axes(self, kernel: Kernel) -> list[GatedAxis]:
        """The axes of a kernel that may shrink."""
        found = []
        layouts = self.channels.axes.get(id(kernel.variable), {})
        for axis, layout in layouts.items():
            numbers, places = channel_positions(layout, self.channels.sizes)
            if not set(self.numbers) & set(numbers.tolist()):
                continue
            rows = np.full(len(self.channels.classes), len(self.numbers))
            rows[self.numbers] = np.arange(len(self.numbers))
            rows = rows[numbers]
            is_free = rows < len(self.numbers)
            flat = np.where(is_free, rows * self._width + places, self._end)
            counts = np.bincount(rows[is_free], minlength=len(self.numbers))
            found.append(
                GatedAxis(
                    axis=axis % len(kernel.variable.shape),
                    places=flat.astype("int32"),
                    weights=(counts / self.sizes / len(rows)).astype("float32"),
                    constant=float(1.0 - is_free.mean()),
                )
            )
        return found

    @property
    def _end(self) -> int:
        """The place of all channels that stay, behind those of the classes."""
        return len(self.numbers) * self._width

    def build(self, input_shape: Any = None) -> None:
        """Creates the logits, the energies and the numbers that are held."""
        count = len(self.numbers)
        self.logit = Logit(_INITIAL_LOGIT, count, name="channel_logit")
        self.logit.build()
        self.energy = self._variable("energy", (count, self._width))
        self.rank = self._variable("rank", (count, self._width))
        self.held_counts = self._variable("held_counts", (count,))
        self.is_measured = self._variable("is_measured", ())
        self.held_counts.assign(self.sizes)
        self.hold_energies(self._energies({}))
        self.built = True

    def _variable(self, name: str, shape: tuple[int, ...]) -> Any:
        return self.add_weight(
            shape=shape, initializer="zeros", trainable=False, name=name
        )

    def attach(self, kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
        """Returns the kernels, with their gates."""
        gates = self.by_kernel
        return tuple(
            dataclasses.replace(k, gate=gates.get(id(k.variable)))
            for k in kernels
        )

    # As of a `QuantizerState`, see `taken_apart`.

    def tensors(self) -> list[Any]:
        """Returns the logits, differentiable for the classes in training."""
        logit = self.logit.tensor()
        if self.trained.all():
            return [logit]
        return [ops.where(self.trained > 0, logit, ops.stop_gradient(logit))]

    def advance(self, *, rate: Any, step: Any) -> None:
        """Applies the optimizer's last moves to the logits, see `Logit`."""
        self.trained = self._in_training()
        is_free = ops.cast(self.held_counts < 0, "float32")
        self.logit.advance(rate=rate, step=step, moves=is_free * self.trained)

    def _in_training(self) -> np.ndarray:
        """1 for the classes whose kernels are all in training."""
        frozen = self._frozen()
        is_free = [number not in frozen for number in self.numbers]
        return np.array(is_free, "float32")

    def restart(self) -> None:
        """Prepares the logits for a new training, see `Logit`."""
        self.logit.restart()

    def parts(self) -> GateParts:
        """What one step asks of the gates."""
        return self._parts or self._apart()

    def _apart(
        self,
        task: Sequence[Any] | None = None,
        budget: Sequence[Any] | None = None,
    ) -> GateParts:
        task = task or self.tensors()
        budget = budget or task
        shares = math_of.relative_shares(ops.stop_gradient(self.energy))
        rank = ops.convert_to_tensor(self.rank)
        ratio = ratio_from_logit(task[0])
        counts = self._counts(ops.stop_gradient(ratio))
        alive = ops.cast(rank < ops.expand_dims(counts, -1), "float32")
        counts = math_of.with_gradient(
            counts, ratio_from_logit(budget[0]), self.sizes
        )
        is_held = ops.expand_dims(self.held_counts >= 0, -1)
        return GateParts(
            reading=self._flat(math_of.gate_factors(alive, shares, ratio)),
            writing=self._flat(alive),
            writing_in_training=self._flat(ops.where(is_held, alive, 1.0)),
            kept=self._each(self._kept(counts)),
            written=self._each(parts_left(self._axes_written, counts)),
        )

    def _each(self, parts: Any) -> list[Any]:
        return list(ops.unstack(parts, len(self.by_kernel)))

    def _counts(self, ratio: Any) -> Any:
        """How many channels stay: those that are held, or by the ratio."""
        counts = math_of.counts_of(
            ratio, self.multiple, self.floors, self.sizes
        )
        held = ops.convert_to_tensor(self.held_counts)
        return ops.where(held >= 0, held, counts)

    def _flat(self, gates: Any) -> Any:
        return ops.concatenate([ops.reshape(gates, (-1,)), ops.ones((1,))])

    def _kept(self, counts: Any) -> Any:
        """The part of the MACs of each gate, for counts on the last axis."""
        return parts_left(self._axes_of_macs, counts)

    @functools.cached_property
    def _axes_of_macs(self) -> AxesOfGates:
        return axes_of_gates([gate.axes for gate in self.by_kernel.values()])

    @functools.cached_property
    def _axes_written(self) -> AxesOfGates:
        return axes_of_gates([gate.written for gate in self.by_kernel.values()])

    def observe(
        self, graph: ActivationGraph, inputs: Any, **kwargs: Any
    ) -> Any:
        """Runs the graph, and keeps what `refresh` needs."""
        self._seen = {}
        return graph(inputs, seen=self._seen, **kwargs)

    def refresh(self, graph: ActivationGraph, *, when: Any) -> None:
        """Measures the energies on the values that the kernels have read.

        Held classes keep their order.
        """
        held = ops.convert_to_tensor(self.energy)
        values = {
            key: [self._seen[index] for index in indices]
            for key, indices in graph.reads().items()
            if key in self.by_kernel
        }
        self._seen = {}

        def measured() -> Any:
            rate = ops.where(self.is_measured > 0, _RATE, 1.0)
            found = held + rate * (self._energies(values) - held)
            is_held = ops.expand_dims(self.held_counts >= 0, -1)
            found = ops.where(is_held, held, found)
            return found, math_of.channel_ranks(found)

        ranks = ops.convert_to_tensor(self.rank)
        energies, ranks = ops.cond(when, measured, lambda: (held, ranks))
        self.energy.assign(energies)
        self.rank.assign(ranks)
        self.is_measured.assign(
            ops.where(when, 1.0, ops.convert_to_tensor(self.is_measured))
        )

    def hold_energies(self, energies: Any) -> None:
        """Holds energies, and the order of the channels in their classes."""
        self.energy.assign(energies)
        self.rank.assign(math_of.channel_ranks(energies))

    def _energies(self, values: Mapping[int, Sequence[Any]]) -> Any:
        """The energy of each channel, summed over the kernels that read it."""
        found, places = [], []
        for key, gate in self.by_kernel.items():
            for axis in gate.axes:
                if axis.axis == gate.reads:
                    found.append(gate.energies(values.get(key, ())))
                    places.append(axis.places)
        summed = ops.segment_sum(
            ops.concatenate(found), np.concatenate(places), self._end + 1
        )
        shape = (len(self.numbers), self._width)
        energies = ops.reshape(summed[: self._end], shape)
        is_channel = np.arange(self._width) < self.sizes[:, None]
        return ops.where(is_channel, energies, -1.0)

    def relative_macs(self, counts: Any) -> Any:
        """The part of all MACs that is left, for counts on the last axis."""
        removed = ops.sum(self._macs * (1.0 - self._kept(counts)), axis=-1)
        return 1.0 - removed / max(self._all_macs, 1)

    def save_own_variables(self, store: Any) -> None:
        """Saves the channels that are left: a file holds them."""
        saved: dict[str, Any] = {}
        super().save_own_variables(saved)
        saved["2"] = self.counts()
        for name, value in saved.items():  # A file writes each name once.
            store[name] = value

    def release(self) -> None:
        """Lets the classes in training lose channels, or get them back."""
        is_free = self._in_training() > 0
        held = ops.convert_to_tensor(self.held_counts)
        self.held_counts.assign(ops.where(is_free, _FREE, held))

    def counts(self) -> np.ndarray:
        """Returns how many channels of each class stay."""
        [logit] = self.tensors()
        counts = self._counts(ratio_from_logit(logit))
        return ops.convert_to_numpy(counts)

    def least_kept(self) -> list[float]:
        """Returns the least part of the MACs of each gate that may be left."""
        counts = np.where(self._in_training() > 0, self.floors, self.counts())
        kept = ops.convert_to_numpy(self._kept(counts.astype("float32")))
        return [float(part) for part in kept]

    def hold(self) -> None:
        """Holds the channels that are left."""
        self.held_counts.assign(self.counts())

    def kept_channels(self) -> dict[int, np.ndarray]:
        """Returns the channels that stay, by the number of their class."""
        ranks = ops.convert_to_numpy(self.rank)
        return {
            number: np.flatnonzero(row[: int(size)] < count)
            for number, row, size, count in zip(
                self.numbers, ranks, self.sizes, self.counts(), strict=True
            )
        }

    def settle(self, *, when: Any, relative_macs: Any | None) -> None:
        """Holds the channels from now on, where `when` is true.

        With a budget in multiply-accumulates, all removed parts change by one
        factor until it is met, and what is left of it goes to single classes.
        """
        held = ops.convert_to_tensor(self.held_counts)
        is_due = ops.logical_and(when, ops.any(held < 0))

        def settled() -> Any:
            ratio = ratio_from_logit(self.logit.tensor())

            def counts(factor: Any) -> Any:
                return self._counts(factor * ratio)

            if relative_macs is None:
                return counts(1.0)

            def is_met(counts: Any) -> Any:
                return self.relative_macs(counts) <= relative_macs

            factor = math_of.least_factor(lambda f: is_met(counts(f)))
            return math_of.filled_counts(
                counts(factor),
                self.sizes * (1.0 - factor * ratio),
                self.multiple * self.trained,
                self.sizes,
                is_met,
            )

        counts = ops.cond(is_due, settled, lambda: held)
        self.held_counts.assign(counts)
