"""FileBytes: a budget in the bytes of the file that a model is exported to.

An exporter measures the file. Training steers `costs.file_bytes`, which has a
gradient: slopes that are measured when it begins.
"""

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from codeq_keras import costs
from codeq_keras.callbacks.misses import is_lowered
from codeq_keras.config import AUTO_BIT_WIDTH
from codeq_keras.costs import KernelCost, Rate, deployed_costs
from codeq_keras.quantizers.supposed import restored, suppose, suppose_bits
from codeq_keras.reports.meter import file_meter
from codeq_keras.training.auto import (
    bit_width_at,
    has_say,
    largest_density,
    set_bit_width,
)
from codeq_keras.training.schedule import SETTLED_FRACTION

# The part of the budget that is aimed at: histograms of codes move until the
# last step, and a file must not be above it.
_AIM = 0.99

# The densities among which that of the budget is looked for, and how finely.
_LEAST_DENSITY = 0.01
_NUM_HALVINGS = 7

# The fewest bits of `"auto"`.
_LEAST_BITS = 2

# Bits at which the slopes of kernels are measured that learn theirs.
_LADDER = (2, 3, 4, 8)

# The slope is taken between the budget's density and this part of it.
_SLOPE_STEP = 0.5

# Fewer bits must save at least this part of the file.
_LEAST_SAVING = 0.02

# When the file is measured: from where the budget is tight on. In the last
# tenth the zeros are held, and each measurement corrects them.
_DUE = (*np.arange(0.2, 0.9, 0.05), *np.arange(0.9, 1.0, 0.02))

# The most that one measurement may change the aim by: far from the budget the
# line is none.
_MAX_CHANGE = 1.5


class _Size(NamedTuple):
    bits: float
    weights: float
    bytes: float


class FileBytes:
    """A budget in bytes of a file, for one training of one model.

    Attributes:
        auto_bits: The bits for `bit_width="auto"`; None if no kernel has it.
        rates: Those of `costs.file_bytes`; no points where zeros change
            nothing.
        aim: The budget in `costs.file_bytes`.
    """

    def __init__(
        self,
        model: Any,
        file_bytes: int,
        target: str,
        found: Sequence[KernelCost],
        min_densities: Sequence[float],
    ) -> None:
        self._model, self._limit = model, file_bytes
        self._min_densities = min_densities
        self._meter = file_meter(model, target, needed_for="`file_bytes`")
        self._lowered = [is_lowered(kernel) for kernel in model.kernels]
        self._densities = [cost.density for cost in found]
        self._known: dict[tuple[float | bool, ...], int] = {}
        self._bits = self._chosen_bits()
        self._require_within(target)
        density = self._density(self._bits)
        self.rates = self._measured_rates(density)
        if self._lowered != list(map(bool, self.rates)):
            self._lowered = list(map(bool, self.rates))
            density = self._density(self._bits)
        with self._supposed(density, self._bits):
            self.aim = self.estimate(deployed_costs(model.kernels))
        self.auto_bits = set_bit_width(model.kernels, self._bits)
        self._next, self._measured_at = _DUE[0], 0.0
        self._remember()

    def is_due(self, progress: float) -> bool:
        """Whether the file should be measured, at this part of a training."""
        return progress >= self._next

    def measure(self, progress: float) -> int:
        """Measures the file, and moves the aim by what the file is off."""
        if progress >= SETTLED_FRACTION > self._measured_at:
            self._meter.renew()  # With the ranges and biases that are trained.
        self._measured_at = progress
        self._remember()
        self._next = next((p for p in _DUE if p > progress), math.inf)
        if progress < _DUE[0] or math.isnan(self._at):
            return self._bytes
        wanted = self._at + _AIM * self._limit - self._bytes
        low, high = self._at / _MAX_CHANGE, self._at * _MAX_CHANGE
        self.aim = min(max(wanted, low), high)
        return self._bytes

    def of(self, found: Sequence[KernelCost]) -> float:
        """Returns the bytes of the file at costs near those measured."""
        return self._bytes + self.estimate(found) - self._at

    def _remember(self) -> None:
        self._at = self.estimate(deployed_costs(self._model.kernels))
        if not math.isnan(self._at):  # A training that diverged has no file.
            self._bytes = self._meter.num_bytes(self._model)

    def estimate(self, found: Sequence[KernelCost]) -> float:
        """Returns the bytes of the file that follow the kernels."""
        return float(costs.file_bytes(found, self.rates))

    @contextlib.contextmanager
    def _supposed(
        self, density: float, bits: int, learned: int | None = None
    ) -> Iterator[None]:
        """The model at a density of all kernels that are lowered, and bits.

        `learned` are those of kernels that learn them.
        """
        densities = [
            max(density, least) if is_low else own
            for own, least, is_low in zip(
                self._densities, self._min_densities, self._lowered, strict=True
            )
        ]
        with restored(self._model.kernels):
            set_bit_width(self._model.kernels, bits)
            suppose_bits(self._model.kernels, learned or bits)
            suppose(self._model.kernels, densities)
            yield

    def _size(self, density: float, bits: int) -> int:
        """The bytes of the file; bisections come to the same places again."""
        place = density, bits, *self._lowered
        if place not in self._known:
            with self._supposed(density, bits):
                self._known[place] = self._meter.num_bytes(self._model)
        return self._known[place]

    def _density(self, bits: int) -> float:
        """The density at which the file has the bytes that are aimed at."""
        aim = _AIM * self._limit
        return largest_density(
            lambda density: self._size(density, bits) <= aim,
            low=_LEAST_DENSITY,
            num_halvings=_NUM_HALVINGS,
        )

    def _chosen_bits(self) -> int:
        """Those of `bit_width_at`, or 4 where fewer make no smaller file."""
        if not any(has_say(self._model.kernels)):
            return AUTO_BIT_WIDTH
        density = self._density(AUTO_BIT_WIDTH)
        bits = bit_width_at(density)
        if bits == AUTO_BIT_WIDTH:
            return bits
        saved = self._size(density, AUTO_BIT_WIDTH) - self._size(density, bits)
        if saved <= _LEAST_SAVING * self._limit:
            return AUTO_BIT_WIDTH
        # Not so few that all weights fit: more bits and some zeros keep more.
        while bits < AUTO_BIT_WIDTH and self._size(1.0, bits) <= self._limit:
            bits += 1
        return bits

    def _measured_rates(self, density: float) -> list[Rate]:
        """Slopes of the file's bytes by the weights that are not zero.

        Of all kernels as one: single ones are full of steps of a few bytes.
        """
        with restored(self._model.kernels):
            set_bit_width(self._model.kernels, self._bits)
            is_learned = suppose_bits(self._model.kernels, self._bits)
        pairs = {
            bits: [
                self._sizes(density, bits),
                self._sizes(_SLOPE_STEP * density, bits),
            ]
            for bits in (_LADDER if is_learned else (self._bits,))
        }
        dense = self._sizes(1.0, self._bits)
        is_lower = [
            is_low and below.bytes < full.bytes
            for is_low, below, full in zip(
                self._lowered, pairs[self._bits][1], dense, strict=True
            )
        ]
        saved: dict[float, float] = defaultdict(float)
        fallen: dict[float, float] = defaultdict(float)
        for high, low in pairs.values():
            for is_low, at, below in zip(is_lower, high, low, strict=True):
                if is_low:
                    saved[at.bits] += at.bytes - below.bytes
                    fallen[at.bits] += at.weights - below.weights
        points = [
            (bits, saved[bits] / fallen[bits])
            for bits in sorted(saved)
            if saved[bits] > 0 and fallen[bits] > 0
        ]
        return [tuple(points) if is_low else () for is_low in is_lower]

    def _sizes(self, density: float, learned: int) -> list[_Size]:
        """Bits, weights that are not zero and bytes of each kernel."""
        with self._supposed(density, self._bits, learned):
            sizes = self._meter.kernel_bytes(self._model)
            return [
                _Size(
                    float(cost.bit_width),
                    cost.num_weights * float(cost.density),
                    sizes.get(kernel.path, 0.0),
                )
                for kernel, cost in zip(
                    self._model.kernels,
                    deployed_costs(self._model.kernels),
                    strict=True,
                )
            ]

    def _require_within(self, target: str) -> None:
        """Raises a ValueError for a budget that no zeros, or all, meet."""
        least = self._size(_LEAST_DENSITY, _LEAST_BITS)
        if least > self._limit:
            raise ValueError(
                f"`file_bytes` must be at least {least:,} here: the bytes of "
                f"the file for {target!r} with nearly all weights at zero that "
                "may be. `tflite_export.inspect` shows where they go. "
                f"Received: file_bytes={self._limit:,}. Allow more, or make "
                "the network smaller."
            )
        dense = self._size(1.0, self._bits)
        if dense <= self._limit:
            raise ValueError(
                f"`file_bytes` must be below {dense:,} here: the bytes of the "
                f"file for {target!r} with all its weights, so that nothing is "
                f"to be lowered. Received: file_bytes={self._limit:,}. Train "
                "without the budget, or allow less."
            )
