"""QuantizerState: logits and bounds of many quantizers, as vectors."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from codeq_keras.config import AUTO_BIT_WIDTH, LEAST_BIT_WIDTH, CoDeQConfig
from codeq_keras.ops.functions import (
    bit_width_from_logit,
    logit_from_bit_width,
)
from codeq_keras.ops.grids import GRIDS, Grid, make_grid, ratio_from_logit
from codeq_keras.quantizers.logits import Logit, PlainLogit, as_vectors
from codeq_keras.quantizers.zeros import largest_magnitude, moved

Shape = tuple[int, ...]

# Stands for a kernel that no budget holds.
FREE = -1.0

# The rounding of a fraction of zeros.
_COUNT_ERROR = 1e-6


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The vectors of a state, taken apart: one entry per quantizer."""

    grids: list[Grid]
    bit_widths: list[Any]


class QuantizerState(keras.layers.Layer):
    """The variables of the quantizers that share one config.

    An optimizer and a traced graph spend some fifty operations on each
    trainable variable, however small, and as many on the few numbers that
    define a grid. So a model has those of all its kernels in vectors, and
    computes them once for all kernels.

    Args:
        config: `CoDeQConfig` of all of them.
        bound_shapes: One shape per quantizer, that of its bound.

    Example:

    >>> state = QuantizerState(CoDeQConfig(), [(), (), (1, 3)])
    >>> [tuple(variable.shape) for variable in state.trainable_variables]
    [(3,), (3,)]
    >>> tuple(state.bounds.shape)
    (5,)
    >>> tuple(state.grid(2).spacing.shape)
    (1, 3)
    """

    def __init__(
        self, config: CoDeQConfig, bound_shapes: Sequence[Shape], **kwargs: Any
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.config = config
        self.bound_shapes = tuple(bound_shapes)
        sizes = [math.prod(shape) for shape in self.bound_shapes]
        self._ends = tuple(itertools.accumulate(sizes))
        # The number of the quantizer that a bound belongs to.
        self._owners: np.ndarray = np.repeat(np.arange(len(sizes)), sizes)
        # Which kernels the running training changes, set by its steps.
        self.trained: np.ndarray = np.ones(len(sizes), "float32")
        # Whether a budget moves the fractions that are held.
        self.moves_zeros = False
        # Whether the bits stay as a budget chose them.
        self.holds_bits = False
        # What a file of an epoch under a budget holds, see `save_zeros`.
        self.zeros_in_files: Sequence[float] | None = None
        self._parts: _Parts | None = None
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the logits and the bounds."""
        config, count = self.config, len(self.bound_shapes)
        is_plain = GRIDS[config.level_grid].has_plain_logits
        kind = PlainLogit if is_plain else Logit
        self.dead_zone_logit = kind(
            config.initial_dead_zone_logit, count, name="dead_zone_logit"
        )
        self.bit_width_logit = None
        if not self._is_fixed:
            self.bit_width_logit = kind(
                config.initial_bit_width_logit, count, name="bit_width_logit"
            )
        for logit in self.logits.values():
            logit.build()
        self.bounds = self.add_weight(
            shape=self._ends[-1:],
            initializer="ones",
            trainable=False,
            name="abs_bound",
        )
        self.held_zeros = self.add_weight(
            shape=(count,),
            initializer=keras.initializers.Constant(FREE),
            trainable=False,
            name="held_zeros",
        )
        # The least bits that are learned, as a budget chose them. A variable:
        # every file of the weights has the bits they are of.
        self.auto_bit_width = None
        if config.is_budgeted:
            is_least = config.bit_width == "learned"
            bits = LEAST_BIT_WIDTH if is_least else AUTO_BIT_WIDTH
            self.auto_bit_width = self.add_weight(
                shape=(count,),
                initializer=keras.initializers.Constant(bits),
                trainable=False,
                name="auto_bit_width",
            )
        self.built = True

    @property
    def _is_fixed(self) -> bool:
        return isinstance(self.config.bit_width, int)

    @property
    def logits(self) -> dict[str, PlainLogit]:
        """The logits that are trained, by name: one or two."""
        logits = [self.dead_zone_logit, self.bit_width_logit]
        return {logit.name: logit for logit in logits if logit is not None}

    def tensors(self) -> list[Any]:
        """Returns the logits, differentiable for the kernels in training."""
        found = [logit.tensor() for logit in self.logits.values()]
        if self.trained.all():
            return found
        return [
            ops.where(self.trained > 0, logit, ops.stop_gradient(logit))
            for logit in found
        ]

    def advance(self, *, rate: Any, bits_rate: Any, step: Any) -> None:
        """Applies the optimizer's last moves to the logits, see `Logit`.

        Those of kernels that are held, or not in training, stay. Under a
        budget the move of a dead zone is one of the density, and bits move at
        a rate of their own.
        """
        moves = self.trained
        if not self.moves_zeros:
            moves = moves * ops.cast(self.held_zeros < 0, "float32")
        for logit in self.logits.values():
            if not self.moves_zeros:
                logit.advance(rate=rate, step=step, moves=moves)
            elif logit is self.dead_zone_logit:
                move = moves * logit.take_move(rate=rate, step=step)
                self.hold_zeros(moved(self.held_zeros, logit.value, move))
            elif not self.holds_bits:
                logit.advance(rate=bits_rate, step=step, moves=moves)

    def restart(self) -> None:
        """Prepares the logits for a new training, see `Logit`."""
        for logit in self.logits.values():
            logit.restart()

    def assign_logit(self, name: str, index: int, value: Any) -> None:
        """Sets one logit of one quantizer."""
        _assign_element(self.logits[name].value, index, value)

    def copy_from(self, index: int, source: "QuantizerState") -> None:
        """Gives one quantizer the state of a lone one of the same config."""
        for name, logit in self.logits.items():
            for variable, value in zip(
                logit.variables, source.logits[name].variables, strict=True
            ):
                _assign_element(variable, index, value)
        _assign_element(self.held_zeros, index, source.held_zeros[0])
        if source.auto_bit_width is not None:
            bits = source.auto_bit_width[0]
            _assign_element(self.auto_bit_width, index, bits)
        self.hold_bound(index, source.bound(0))

    def choose_bit_width(self, index: int, bit_width: int) -> None:
        """Sets the bits that a budget chose for one kernel.

        Those that are learned have them, or 3, as the least, and begin there,
        unless an earlier budget with the same least has moved them.
        """
        config, least = self.config, bit_width
        if config.bit_width == "learned":
            least = min(bit_width, LEAST_BIT_WIDTH)
        logit = self.logits["bit_width_logit"].value[index]
        is_new = least != self.least_bit_width(index)
        _assign_element(self.auto_bit_width, index, least)
        if is_new or logit == config.initial_bit_width_logit:
            self.begin_bit_width(index, bit_width)

    def begin_bit_width(self, index: int, bit_width: int) -> None:
        """Lets a kernel learn its bits from these on, or the nearest."""
        least, most = self.least_bit_width(index), self.config.max_bit_width
        logit = logit_from_bit_width(
            max(bit_width, least), min_bit_width=least, max_bit_width=most
        )
        self.assign_logit("bit_width_logit", index, logit)

    def least_bit_width(self, index: int) -> int:
        """Returns the fewest bits that a kernel may come to."""
        if self.auto_bit_width is not None:
            return int(self.auto_bit_width[index])
        config = self.config
        is_learned = self.bit_width_logit is not None
        return int(config.min_bit_width if is_learned else config.bit_width)

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Loads the bounds, also of older files, see `as_vectors`."""
        free: np.ndarray = np.full(len(self.bound_shapes), FREE, "float32")
        # Files of November 2026 hold no zeros.
        super().load_own_variables({"1": free, **as_vectors(store)})

    def save_own_variables(self, store: Any) -> None:
        """Saves the bounds, and the zeros that a running budget has reached."""
        saved: dict[str, Any] = {}
        super().save_own_variables(saved)
        if self.zeros_in_files is not None:
            saved["1"] = np.array(self.zeros_in_files, "float32")
        for name, value in saved.items():  # A file writes each name once.
            store[name] = value

    # --- Zeros that a budget has reached -------------------------------------

    def hold_zeros(self, fractions: Any) -> None:
        """Holds a fraction of zeros for each kernel from now on."""
        self.held_zeros.assign(fractions)

    def release_zeros(self) -> None:
        """Lets the logits move again."""
        self.moves_zeros = False
        self.held_zeros.assign([FREE] * len(self.bound_shapes))

    def follow_held_zeros(
        self, counter: Callable[[], Callable[[], Sequence[Any]]]
    ) -> None:
        """Moves the logits to the zeros that are held, where any are.

        `counter` returns what counts the zeros of each kernel. They fall with
        the magnitude of the logit.
        """
        if GRIDS[self.config.level_grid].has_plain_logits:
            return  # No budget moves them.
        logit = ops.convert_to_tensor(self.dead_zone_logit.value)
        held = ops.convert_to_tensor(self.held_zeros)
        others = self.tensors()[1:]

        def followed() -> Any:
            count = counter()  # Once, not in each turn of the loop.

            def has_enough(magnitude: Any) -> Any:
                self._parts = self._apart([magnitude, *others])
                enough = ops.stack(count()) >= held - _COUNT_ERROR
                self._parts = None
                return enough

            magnitude = largest_magnitude(has_enough, like=logit)
            is_held = ops.logical_and(held >= 0, self.trained > 0)
            signed = ops.where(logit < 0, -magnitude, magnitude)
            return ops.where(is_held, signed, logit)

        self.dead_zone_logit.value.assign(
            ops.cond(ops.any(held >= 0), followed, lambda: logit)
        )

    # --- Bounds -------------------------------------------------------------

    def hold_bound(self, index: int, bound: Any) -> None:
        """Holds the bound of one kernel until the next call."""
        start = self._ends[index] - math.prod(self.bound_shapes[index])
        bound = ops.slice_update(
            ops.convert_to_tensor(self.bounds.value),
            [start],
            ops.reshape(bound, (-1,)),
        )
        self.bounds.assign(bound)

    def refresh_bounds(
        self, compute: Callable[[], Sequence[Any]], *, when: Any
    ) -> None:
        """Holds the bounds that `compute` returns, where `when` is true.

        Those of kernels that are not in training stay, as their codes do.
        """
        held = ops.convert_to_tensor(self.bounds)

        def computed() -> Any:
            bounds = compute()
            if not any(self.bound_shapes):
                bounds = ops.stack(bounds)
            else:
                bounds = ops.concatenate(
                    [ops.reshape(b, (-1,)) for b in bounds]
                )
            return ops.where(self.trained[self._owners] > 0, bounds, held)

        # One branch for all kernels: a branch for each would slow tracing.
        bounds = ops.cond(when, computed, lambda: held)
        self.bounds.assign(bounds)

    def bound(self, index: int) -> Any:
        """Returns the bound of one kernel."""
        bounds = ops.stop_gradient(self.bounds)
        return self._split(bounds, per_bound=True)[index]

    # --- Grids and bits ------------------------------------------------------

    def grid(self, index: int) -> Grid:
        """Returns the grid of one kernel."""
        return (self._parts or self._apart()).grids[index]

    def bit_width(self, index: int) -> Any:
        """Returns the integer of the config, or a float scalar."""
        if self._is_fixed:
            return self.config.bit_width
        return (self._parts or self._apart()).bit_widths[index]

    def _apart(
        self,
        task: Sequence[Any] | None = None,
        budget: Sequence[Any] | None = None,
    ) -> _Parts:
        """The vectors taken apart; logits of a budget, see `taken_apart`."""
        task = task or self.tensors()
        budget = budget or task
        grid, bit_widths = self._vector_grid(task, budget), []
        fields = {
            name: self._split(value, per_bound=name != "ratio")
            for name, value in grid.tensors().items()
        }
        if not self._is_fixed:
            bit_widths = self._bit_widths(budget)
            bit_widths = self._split(bit_widths, per_bound=False)
        return _Parts(
            grids=[
                dataclasses.replace(
                    grid, **dict(zip(fields, values, strict=True))
                )
                for values in zip(*fields.values(), strict=True)
            ],
            bit_widths=bit_widths,
        )

    def _bit_widths(self, logits: Sequence[Any]) -> Any:
        config = self.config
        if self._is_fixed:
            return config.bit_width
        least: Any = config.min_bit_width
        most: Any = config.max_bit_width
        if self.auto_bit_width is not None:
            least = ops.convert_to_tensor(self.auto_bit_width)
        if config.bit_width == "auto":
            most = ops.where(least < LEAST_BIT_WIDTH, float(most), least)
        return bit_width_from_logit(
            logits[1], min_bit_width=least, max_bit_width=most
        )

    def _vector_grid(self, task: Sequence[Any], budget: Sequence[Any]) -> Grid:
        """All grids as one, with a ratio per kernel, all else per bound."""
        logits, bit_widths = task[0], self._bit_widths(task)
        if any(self.bound_shapes):
            logits = ops.take(logits, self._owners)
            if not self._is_fixed:
                bit_widths = ops.take(bit_widths, self._owners)
        grid = make_grid(
            self.bounds,
            logits,
            bit_widths,
            self.config.level_grid,
            self.config.sparsity_block,
        )
        if logits is not budget[0]:
            grid = dataclasses.replace(grid, ratio=ratio_from_logit(budget[0]))
        return grid

    def _split(self, vector: Any, *, per_bound: bool) -> list[Any]:
        if not (per_bound and any(self.bound_shapes)):
            return ops.unstack(vector, len(self.bound_shapes))
        # TensorFlow refuses to split into one.
        cuts = self._ends[:-1]
        parts = ops.split(vector, cuts) if cuts else [vector]
        return [
            ops.reshape(part, shape)
            for part, shape in zip(parts, self.bound_shapes, strict=True)
        ]


def _assign_element(variable: keras.Variable, index: int, value: Any) -> None:
    value = ops.reshape(ops.cast(value, variable.dtype), (1,))
    variable.assign(ops.slice_update(variable.value, [index], value))
