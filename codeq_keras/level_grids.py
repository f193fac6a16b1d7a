"""The three grids of levels: forward, codes and the gradient they share.

The documented functions are in `codeq_keras.ops`.
"""

import functools
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


def _index(
    weights: Any,
    spacing: Any,
    offset: Any,
    width: Any,
    max_code: Any,
    block: int,
) -> Any:
    """Signed index of the paper's level, Eq. (10)."""
    rounded = ops.round(_position(weights, spacing, offset))
    index = ops.clip(rounded, -max_code, max_code)
    if block == 1:
        return index
    # In a block that is kept, a weight below the dead zone takes the nearer
    # one of zero and the first level.
    magnitudes = ops.abs(weights)
    has_level = magnitudes > (offset + spacing) / 2
    first_or_more = ops.maximum(ops.abs(index), ops.cast(has_level, "float32"))
    kept = block_magnitudes(magnitudes, block) > width / 2
    return ops.where(kept, ops.sign(weights) * first_or_more, 0.0)


def block_magnitudes(magnitudes: Any, block: int) -> Any:
    """Root mean square of each block of neighbours on the last axis.

    Of the shape of `magnitudes`, the same number in all places of a block. A
    block that the end of the axis cuts off has the mean of what is there.
    """
    if block == 1:
        return magnitudes
    size = magnitudes.shape[-1]
    num_blocks = -(-size // block)
    padding = [(0, 0)] * (len(magnitudes.shape) - 1)
    padding.append((0, num_blocks * block - size))
    shape = (*magnitudes.shape[:-1], num_blocks, block)
    squares = ops.reshape(ops.pad(ops.square(magnitudes), padding), shape)
    count = ops.reshape(
        ops.minimum(block, size - block * ops.arange(num_blocks)), (-1, 1)
    )
    mean = ops.sum(squares, axis=-1, keepdims=True)
    mean = mean / ops.cast(count, magnitudes.dtype)
    everywhere = ops.reshape(
        ops.broadcast_to(ops.sqrt(mean), shape),
        (*magnitudes.shape[:-1], num_blocks * block),
    )
    return everywhere[..., :size]


def zero_threshold(grid: Grid, level_grid: str, block: int) -> Any:
    """Magnitude up to which a weight that is not pruned rounds to zero."""
    first_level = grid.offset + grid.spacing
    threshold = first_level / 2 if block > 1 else 0.0
    if level_grid == "uniform":
        # Half a step, even without a dead zone; 2 bits have one level only.
        half_step = grid.abs_bound / (2 * grid.max_code)
        threshold = ops.where(grid.max_code > 1, half_step, threshold)
    return threshold


def _mean_kept_magnitude(weights: Any, index: Any, width: Any) -> Any:
    """Mean of `|w|` that is not zeroed, per element of `width`."""
    magnitudes = ops.abs(weights)
    kept = ops.cast(index != 0, magnitudes.dtype)
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
    block: int,
) -> tuple[Any, Any]:
    index = _index(weights, spacing, offset, width, max_code, block)
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
    block: int,
) -> tuple[Any, Any]:
    scale = abs_bound / max_code
    codes = ops.clip(ops.round(weights / scale), -max_code, max_code)
    kept = block_magnitudes(ops.abs(weights), block) > width / 2
    codes = ops.where(kept, codes, 0.0)
    index = _index(weights, spacing, offset, width, max_code, block)
    return _with_ternary(codes, scale, index, weights, width, max_code)


def _with_ternary(
    codes: Any, scale: Any, index: Any, weights: Any, width: Any, max_code: Any
) -> tuple[Any, Any]:
    """At 2 bits: codes in {-1, 0, 1}, scale the mean kept magnitude."""
    # Levels of ±abs_bound, as the formula gives at 2 bits, lose 15 to 20
    # points of accuracy against the mean.
    ternary = max_code <= 1.0
    codes = ops.where(ternary, index, codes)
    scale = ops.where(
        ternary, _mean_kept_magnitude(weights, index, width), scale
    )
    return codes, scale


CODES = {"dead_zone": _dead_zone_codes, "uniform": _uniform_codes}


def _sum_to_shape(x: Any, shape: Sequence[int]) -> Any:
    """Sums `x` to a shape that broadcasts to it (size 1, or a scalar)."""
    if len(shape) == 0:
        return ops.sum(x)
    axes = [i for i, size in enumerate(shape) if size == 1]
    return ops.sum(x, axis=axes, keepdims=True) if axes else x


@functools.cache
def straight_through(level_grid: str, block: int) -> Callable[..., Any]:
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
            index = _index(weights, spacing, offset, width, max_code, block)
            quantized = ops.sign(index) * offset + spacing * index
        else:
            codes, scale = CODES[level_grid](
                weights, spacing, offset, abs_bound, width, max_code, block
            )
            quantized = codes * scale

        def gradient(*args: Any, upstream: Any = None) -> tuple[Any, ...]:
            if upstream is None:
                (upstream,) = args
            position = _position(weights, spacing, offset)
            index = _index(weights, spacing, offset, width, max_code, block)
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
