"""RoundedKernel: prunes and rounds one kernel, again for each budget."""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np

from codeq_keras.ops.blocks import keep_two_of_four
from codeq_keras.post_training.levels import Levels, levels_of, search_bounds
from codeq_keras.post_training.problems import Problem, numpy_of
from codeq_keras.post_training.rounding import (
    inverse_factor,
    refit,
    round_in_order,
)

# Weights that are zero come to lie within the dead zone, not on its edge.
_WITHIN = 0.98


class RoundedKernel:
    """A kernel, what it was in float, and its ways to few values.

    Args:
        problem: The kernel, and the moments of its inputs.
        macs_matter: Whether a budget counts multiply-accumulates.
    """

    def __init__(self, problem: Problem, *, macs_matter: bool) -> None:
        self.problem, self.kernel = problem, problem.kernel
        self.rows = problem.rows  # Of the float kernel, which will change.
        self.bias = problem.bias
        # Each rounding starts from it.
        self._old_bias = 0.0 if self.bias is None else numpy_of(self.bias)
        self._macs_matter = macs_matter

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """The part of its outputs that each weight adds, for its cost.

        Infinite where its cost is zero: pruning it would not help.
        """
        cost: Any = 1.0
        if self._macs_matter:
            cost = (self.kernel.num_macs or 0) / self.kernel.num_weights
        if not cost:
            return np.full(self.rows.shape, np.inf, "float32")
        weights = self.problem.diagonal[:, None, :]
        return np.square(self.rows) * weights / (self.problem.energy * cost)

    @functools.cached_property
    def _choices(self) -> tuple[Levels, ...]:
        quantizer = self.kernel.quantizer
        bits = int(quantizer.bit_width)
        return levels_of(dataclasses.replace(quantizer.config, bit_width=bits))

    @functools.cached_property
    def _factor(self) -> tuple[np.ndarray, np.ndarray] | None:
        hessian = self.problem.hessian
        return None if hessian is None else inverse_factor(hessian)

    @functools.cached_property
    def _smallest(self) -> np.ndarray:
        """Below it a weight rounds to zero, about: before any is pruned."""
        levels, bounds = self._search(self.rows)
        first = levels.values[1] * bounds / 2
        return first[self.problem.owners][..., None]

    def density(self, threshold: float) -> float:
        """About what is left of the weights, without rounding any."""
        left = self.is_kept(threshold) & (np.abs(self.rows) > self._smallest)
        return float(left.mean())

    def is_kept(self, threshold: float) -> np.ndarray:
        """Which weights stay."""
        kept = self.scores > threshold
        if self.kernel.quantizer.config.sparsity_pattern is not None:
            kept &= self._in_pattern
        return kept

    @functools.cached_property
    def _in_pattern(self) -> np.ndarray:
        to_kernel, to_rows = (
            self.problem.layout.kernel,
            self.problem.layout.rows,
        )
        scores = keras.ops.convert_to_tensor(to_kernel(np.sqrt(self.scores)))
        axis = self.kernel.quantizer.pattern_axis
        return to_rows(numpy_of(keep_two_of_four(scores, axis))) > 0

    def _search(self, rows: np.ndarray) -> tuple[Levels, np.ndarray]:
        weights = self.problem.diagonal[:, None, :]
        return search_bounds(rows, self.problem.owners, weights, self._choices)

    def round(self, threshold: float) -> None:
        """Gives the kernel, its quantizer and its bias their values."""
        kept, hessian = self.is_kept(threshold), self.problem.hessian
        rows = self.rows * kept
        if hessian is not None:
            rows = refit(self.rows, hessian, kept)
        levels, bounds = self._search(rows)
        of_rows = bounds[self.problem.owners]
        if self._factor is None:
            values = levels.nearest(rows, of_rows[..., None]) * kept
        else:
            values = round_in_order(
                rows,
                *self._factor,
                kept,
                lambda column: levels.nearest(column, of_rows),
            )
        self._assign(values, levels, bounds)

    def _assign(
        self, values: np.ndarray, levels: Levels, bounds: np.ndarray
    ) -> None:
        problem, quantizer = self.problem, self.kernel.quantizer
        shape = quantizer.bound_shape(tuple(self.kernel.variable.shape))
        quantizer.hold_abs_bound(bounds.reshape(shape))
        quantizer.assign_logits(dead_zone=levels.logit)
        # As a training leaves it: what is zero may come back.
        edge = _WITHIN * numpy_of(quantizer.grid.width) / 2
        edge = np.broadcast_to(edge, shape).ravel()[problem.owners][..., None]
        latent = np.where(values == 0, np.clip(self.rows, -edge, edge), values)
        self.kernel.variable.assign(problem.layout.kernel(latent))
        if self.bias is not None:
            lost = (self.rows - values) @ problem.means[..., None]
            self.bias.assign(self._old_bias + lost.reshape(self.bias.shape))
