"""The three grids of levels: forward, codes and the gradient they share.

The documented functions are in `codeq_keras.ops`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

LEVEL_GRIDS = ("dead_zone", "uniform", "paper")

# The int8 lattice is symmetric, [-127, 127]: a negative BatchNorm gamma flips
# the sign of a channel's codes, and -128 has no positive counterpart.
_INT8_MAX_CODE = 127

# Added to the level spacing, as in the published code, so that a dead zone
# over the whole range does not divide by zero.
EPSILON = 1e-8


def ratio_from_logit(dead_zone_logit: Any) -> Any:
    """Half width of the dead zone as a fraction of the bound, Eq. (15)."""
    logit = ops.convert_to_tensor(dead_zone_logit, dtype="float32")
    return 1.0 - ops.abs(ops.tanh(logit))


class Grid:
    """The scalars that define the levels, differentiable in the logits."""

    def __init__(
        self,
        abs_bound: Any,
        dead_zone_logit: Any,
        bit_width: Any,
        level_grid: str,
    ) -> None:
        if level_grid not in LEVEL_GRIDS:
            raise ValueError(
                f"`level_grid` must be one of {LEVEL_GRIDS}. "
                f"Received: level_grid={level_grid!r}"
            )
        if isinstance(bit_width, int | float) and not 2 <= bit_width <= 8:
            raise ValueError(
                "`bit_width` must be between 2 and 8. "
                f"Received: bit_width={bit_width}"
            )
        bit_width = ops.convert_to_tensor(bit_width, dtype="float32")
        # The bound is not differentiated: paper, section 5.1.
        self.abs_bound = ops.stop_gradient(
            ops.convert_to_tensor(abs_bound, dtype="float32")
        )
        self.ratio = ratio_from_logit(dead_zone_logit)
        self.width = 2.0 * self.abs_bound * self.ratio
        self.max_code = ops.power(2.0, bit_width - 1.0) - 1.0
        # The published constant, or one that also suits tiny weights.
        epsilon = EPSILON
        if level_grid != "paper":
            epsilon = EPSILON * self.abs_bound
        # Eq. (12) and (17): the largest level is always `abs_bound`.
        self.spacing = (self.abs_bound - self.width / 2) / (
            self.max_code - 0.5
        ) + epsilon
        self.offset = (self.width - self.spacing) / 2


def _position(weights: Any, spacing: Any, offset: Any) -> Any:
    """Signed distance from zero in units of the spacing, before rounding."""
    return ops.sign(weights) * ops.relu(ops.abs(weights) - offset) / spacing


def _index(weights: Any, spacing: Any, offset: Any, max_code: Any) -> Any:
    """Signed index of the paper's level, Eq. (10)."""
    rounded = ops.round(_position(weights, spacing, offset))
    return ops.clip(rounded, -max_code, max_code)


def _mean_kept_magnitude(weights: Any, width: Any) -> Any:
    """Mean of `|w|` outside the dead zone, per element of `width`."""
    magnitudes = ops.abs(weights)
    kept = ops.cast(magnitudes > width / 2, magnitudes.dtype)
    total = _sum_to_shape(kept * magnitudes, width.shape)
    count = _sum_to_shape(kept, width.shape)
    return ops.maximum(total / ops.maximum(count, 1.0), EPSILON)


def _dead_zone_codes(
    weights: Any,
    spacing: Any,
    offset: Any,
    abs_bound: Any,
    width: Any,
    max_code: Any,
) -> tuple[Any, Any]:
    index = _index(weights, spacing, offset, max_code)
    scale = abs_bound / _INT8_MAX_CODE
    level = ops.round((offset + spacing * ops.abs(index)) / scale)
    # A level below half a lattice step would vanish and change the sparsity.
    codes = ops.sign(index) * ops.clip(level, 1.0, _INT8_MAX_CODE)
    return _with_ternary(codes, scale, index, weights, width, max_code)


def _uniform_codes(
    weights: Any,
    spacing: Any,
    offset: Any,
    abs_bound: Any,
    width: Any,
    max_code: Any,
) -> tuple[Any, Any]:
    scale = abs_bound / max_code
    codes = ops.clip(ops.round(weights / scale), -max_code, max_code)
    codes = ops.where(ops.abs(weights) > width / 2, codes, 0.0)
    index = _index(weights, spacing, offset, max_code)
    return _with_ternary(codes, scale, index, weights, width, max_code)


def _with_ternary(
    codes: Any, scale: Any, index: Any, weights: Any, width: Any, max_code: Any
) -> tuple[Any, Any]:
    """At 2 bits: codes in {-1, 0, 1}, scale the mean kept magnitude."""
    # Levels of ±abs_bound, as the formula gives at 2 bits, lose 15 to 20
    # points of accuracy against the mean.
    ternary = max_code <= 1.0
    codes = ops.where(ternary, index, codes)
    scale = ops.where(ternary, _mean_kept_magnitude(weights, width), scale)
    return codes, scale


CODES = {"dead_zone": _dead_zone_codes, "uniform": _uniform_codes}


def _sum_to_shape(x: Any, shape: Sequence[int]) -> Any:
    """Sums `x` to a shape that broadcasts to it (size 1, or a scalar)."""
    if len(shape) == 0:
        return ops.sum(x)
    axes = [i for i, size in enumerate(shape) if size == 1]
    return ops.sum(x, axis=axes, keepdims=True) if axes else x


def _straight_through(level_grid: str) -> Callable[..., Any]:
    """Forward of one grid with the closed-form gradient that all grids share.

    One `custom_gradient` instead of straight-through pieces: two reductions
    and no intermediate tensor kept for the backward pass but the position.
    """

    @ops.custom_gradient
    def forward(
        weights: Any,
        spacing: Any,
        offset: Any,
        abs_bound: Any,
        width: Any,
        max_code: Any,
    ) -> tuple[Any, Callable[..., Any]]:
        if level_grid == "paper":
            index = _index(weights, spacing, offset, max_code)
            quantized = ops.sign(index) * offset + spacing * index
        else:
            codes, scale = CODES[level_grid](
                weights, spacing, offset, abs_bound, width, max_code
            )
            quantized = codes * scale

        def gradient(*args: Any, upstream: Any = None) -> tuple[Any, ...]:
            if upstream is None:
                (upstream,) = args
            position = _position(weights, spacing, offset)
            index = ops.clip(ops.round(position), -max_code, max_code)
            sign = ops.sign(weights)
            to_weights = upstream
            if level_grid == "paper":
                to_weights = upstream * ops.abs(sign)
            to_spacing = upstream * (index - position)
            to_offset = upstream * (ops.sign(index) - sign)
            return (
                to_weights,
                _sum_to_shape(to_spacing, spacing.shape),
                _sum_to_shape(to_offset, offset.shape),
                ops.zeros_like(abs_bound),
                ops.zeros_like(width),
                ops.zeros_like(max_code),
            )

        return quantized, gradient

    return forward


STRAIGHT_THROUGH = {grid: _straight_through(grid) for grid in LEVEL_GRIDS}
