"""QuantizerState: logits and bounds of many quantizers, as vectors."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from codeq_keras.config import CoDeQConfig
from codeq_keras.ops.functions import bit_width_from_logit
from codeq_keras.ops.grids import Grid, make_grid, ratio_from_logit
from codeq_keras.quantizers.logits import (
    Logit,
    LogitElement,
    PlainLogit,
    VariableElement,
)

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The vectors of a state, taken apart for one call of a model."""

    grids: list[Grid]
    logits: dict[str, list[Any]]
    bit_widths: list[Any]


class QuantizerState(keras.layers.Layer):
    """The variables of the quantizers that share one config.

    An optimizer and a traced graph spend some fifty operations on each
    trainable variable, however small, and as many on the few numbers that
    define a grid. So a model has those of all its kernels in vectors, and what
    would be done for every kernel is done once.

    A single quantizer has variables of the shape of its logit and its bound.

    Args:
        config: `CoDeQConfig` of all of them.
        bound_shapes: One shape per quantizer, that of its bound.

    Example:

    >>> state = QuantizerState(CoDeQConfig(), [(), (), (1, 3)])
    >>> [tuple(variable.shape) for variable in state.trainable_variables]
    [(3,)]
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
        self._parts: _Parts | None = None
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the logits and the bounds."""
        config = self.config
        kind = PlainLogit if config.level_grid == "paper" else Logit
        shape = () if self.is_single else (len(self.bound_shapes),)
        self.dead_zone_logit = kind(
            config.initial_dead_zone_logit, shape, name="dead_zone_logit"
        )
        self.bit_width_logit = None
        if config.bit_width == "learned":
            self.bit_width_logit = kind(
                config.initial_bit_width_logit, shape, name="bit_width_logit"
            )
        for logit in self.logits.values():
            logit.build()
        self.bounds = self.add_weight(
            shape=self.bound_shapes[0] if self.is_single else self._ends[-1:],
            initializer="ones",
            trainable=False,
            name="abs_bound",
        )
        self.built = True

    @property
    def is_single(self) -> bool:
        """Whether there is one quantizer."""
        return len(self.bound_shapes) == 1

    @property
    def logits(self) -> dict[str, Logit | PlainLogit]:
        """The logits that are trained, by name: one or two."""
        logits = [self.dead_zone_logit, self.bit_width_logit]
        return {logit.name: logit for logit in logits if logit is not None}

    def advance(self, *, rate: Any, step: Any) -> None:
        """Applies the optimizer's last moves to the logits, see `Logit`."""
        for logit in self.logits.values():
            logit.advance(rate=rate, step=step)

    def restart(self) -> None:
        """Prepares the logits for a new training, see `Logit`."""
        for logit in self.logits.values():
            logit.restart()

    def copy_from(self, index: int, source: "QuantizerState") -> None:
        """Gives one quantizer the state of a single one of the same config."""
        for name, logit in self.logits.items():
            for variable, value in zip(
                logit.variables, source.logits[name].variables, strict=True
            ):
                value = ops.convert_to_tensor(value.value)
                if self.is_single:
                    variable.assign(value)
                else:
                    VariableElement(variable, index).assign(value)
        self.hold_bound(index, source.bound(0))

    # --- Bounds -------------------------------------------------------------

    def hold_bound(self, index: int, bound: Any) -> None:
        """Holds the bound of one kernel until the next call."""
        if self.is_single:
            bound = ops.reshape(bound, self.bound_shapes[0])
        else:
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
        """Holds the bounds of all kernels anew, where `when` is true.

        Args:
            compute: Returns the bounds, one per quantizer.
            when: Boolean scalar, a tensor.
        """

        def computed() -> Any:
            bounds = compute()
            if self.is_single:
                return bounds[0]
            if not any(self.bound_shapes):
                return ops.stack(bounds)
            return ops.concatenate([ops.reshape(b, (-1,)) for b in bounds])

        # One branch for all kernels: a branch for each would slow tracing.
        bounds = ops.cond(
            when, computed, lambda: ops.convert_to_tensor(self.bounds)
        )
        self.bounds.assign(bounds)

    def bound(self, index: int) -> Any:
        """Returns the bound of one kernel."""
        return self._part(ops.stop_gradient(self.bounds), index)

    # --- What the quantizers compute with -----------------------------------

    def grid(self, index: int) -> Grid:
        """Returns the grid of one kernel."""
        if self._parts is not None:
            return self._parts.grids[index]
        grid = self._vector_grid()
        fields = {
            name: self._part(value, index, per_bound=name != "ratio")
            for name, value in _tensors(grid).items()
        }
        return dataclasses.replace(grid, **fields)

    def bit_width(self, index: int) -> Any:
        """Returns the integer of the config, or a float scalar if learned."""
        if self.bit_width_logit is None:
            return self.config.bit_width
        if self._parts is not None:
            return self._parts.bit_widths[index]
        return self._part(self._bit_widths(), index, per_bound=False)

    def logit(self, name: str, index: int) -> Any:
        """Returns one logit by its name; None if it is not trained."""
        logit = self.logits.get(name)
        if logit is None or self.is_single:
            return logit
        tensors = None if self._parts is None else self._parts.logits[name]
        return LogitElement(logit, index, tensors)

    @contextlib.contextmanager
    def taken_apart(self) -> Iterator[None]:
        """Takes the vectors apart once for all that is asked for within."""
        grid = self._vector_grid()
        fields = {
            name: self._split(value, per_bound=name != "ratio")
            for name, value in _tensors(grid).items()
        }
        learned = self.bit_width_logit is not None
        self._parts = _Parts(
            grids=[
                dataclasses.replace(
                    grid, **dict(zip(fields, values, strict=True))
                )
                for values in zip(*fields.values(), strict=True)
            ],
            logits={
                name: self._split(logit.tensor(), per_bound=False)
                for name, logit in self.logits.items()
            },
            bit_widths=(
                self._split(self._bit_widths(), per_bound=False)
                if learned
                else []
            ),
        )
        try:
            yield
        finally:
            self._parts = None

    def _bit_widths(self) -> Any:
        config = self.config
        if self.bit_width_logit is None:
            return config.bit_width
        return bit_width_from_logit(
            self.bit_width_logit.tensor(),
            min_bit_width=config.min_bit_width,
            max_bit_width=config.max_bit_width,
        )

    def _vector_grid(self) -> Grid:
        """All grids as one, with a ratio per kernel, all else per bound."""
        logits, bit_widths = self.dead_zone_logit.tensor(), self._bit_widths()
        is_repeated = not self.is_single and any(self.bound_shapes)
        grid = make_grid(
            self.bounds,
            ops.take(logits, self._owners) if is_repeated else logits,
            ops.take(bit_widths, self._owners)
            if is_repeated and self.bit_width_logit is not None
            else bit_widths,
            self.config.level_grid,
            self.config.sparsity_block,
        )
        if is_repeated:
            ratio = ratio_from_logit(logits)
            grid = dataclasses.replace(grid, ratio=ratio)
        return grid

    def _split(self, vector: Any, *, per_bound: bool) -> list[Any]:
        if self.is_single:
            return [vector]
        if not (per_bound and any(self.bound_shapes)):
            return ops.unstack(vector, len(self.bound_shapes))
        parts = ops.split(vector, self._ends[:-1])
        return [
            ops.reshape(part, shape)
            for part, shape in zip(parts, self.bound_shapes, strict=True)
        ]

    def _part(self, vector: Any, index: int, *, per_bound: bool = True) -> Any:
        if self.is_single:
            return vector
        if not per_bound:
            return vector[index]
        shape = self.bound_shapes[index]
        end = self._ends[index]
        return ops.reshape(vector[end - math.prod(shape) : end], shape)


def _tensors(grid: Grid) -> dict[str, Any]:
    """The fields that differ between kernels; the others are of the config."""
    constant = {"level_grid", "block"}
    if isinstance(grid.max_code, float):
        constant.add("max_code")
    return {
        field.name: getattr(grid, field.name)
        for field in dataclasses.fields(grid)
        if field.name not in constant
    }
