"""The three grids of levels: forward, codes and the gradient they share.

The documented functions are in `codeq_keras.ops`; those here take a `Grid`.
"""

import dataclasses
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

# Width of the soft step that stands for the count of zeros in the backward
# pass, as a fraction of the bound: larger reaches more weights, less exactly.
TEMPERATURE = 0.05


def ratio_from_logit(dead_zone_logit: Any) -> Any:
    """Half width of the dead zone as a fraction of the bound, Eq. (15)."""
    logit = ops.convert_to_tensor(dead_zone_logit, dtype="float32")
    return 1.0 - ops.abs(ops.tanh(logit))


@dataclasses.dataclass(frozen=True)
class Grid:
    """The numbers that define the levels, for one kernel or for many.

    Only `ratio`, `spacing` and `offset` have a gradient.

    Attributes:
        level_grid: One of `LEVEL_GRIDS`.
        block: Channels that are pruned together.
        abs_bound: Magnitude of the largest level.
        ratio: Half width of the dead zone as a fraction of `abs_bound`.
        width: Full width of the dead zone.
        spacing: Distance of two levels of the same sign.
        offset: Distance from zero to the level that would precede the first.
        scale: Real value of one code; on `"paper"` of none.
        max_code: Levels of one sign: a Python float where the bit width is
            a number, which leaves out of the graph what 2 bits need.
    """

    level_grid: str
    block: int
    abs_bound: Any
    ratio: Any
    width: Any
    spacing: Any
    offset: Any
    scale: Any
    max_code: Any


def make_grid(
    abs_bound: Any,
    dead_zone_logit: Any,
    bit_width: Any,
    level_grid: str,
    block: int = 1,
) -> Grid:
    """Returns the grid; elementwise, so the arguments may be vectors."""
    if level_grid not in LEVEL_GRIDS:
        raise ValueError(
            f"`level_grid` must be one of {LEVEL_GRIDS}. "
            f"Received: level_grid={level_grid!r}"
        )
    if isinstance(bit_width, int | float):
        if not 2 <= bit_width <= 8:
            raise ValueError(
                "`bit_width` must be between 2 and 8. "
                f"Received: bit_width={bit_width}"
            )
        max_code = 2.0 ** (float(bit_width) - 1) - 1.0
    else:
        bit_width = ops.convert_to_tensor(bit_width, dtype="float32")
        max_code = ops.power(2.0, bit_width - 1.0) - 1.0
    # The bound is not differentiated: paper, section 5.1.
    abs_bound = ops.stop_gradient(
        ops.convert_to_tensor(abs_bound, dtype="float32")
    )
    ratio = ratio_from_logit(dead_zone_logit)
    width = 2.0 * abs_bound * ratio
    # The published constant, or one that also suits tiny weights.
    epsilon = EPSILON if level_grid == "paper" else EPSILON * abs_bound
    # Eq. (12) and (17): the largest level is always `abs_bound`.
    spacing = (abs_bound - width / 2) / (max_code - 0.5) + epsilon
    codes = max_code if level_grid == "uniform" else _INT8_MAX_CODE
    return Grid(
        level_grid=level_grid,
        block=block,
        abs_bound=abs_bound,
        ratio=ratio,
        width=ops.stop_gradient(width),
        spacing=spacing,
        offset=(width - spacing) / 2,
        scale=ops.stop_gradient(abs_bound / codes),
        max_code=_stop_gradient(max_code),
    )


def _stop_gradient(value: Any) -> Any:
    return value if isinstance(value, float) else ops.stop_gradient(value)


def fake_quantize(weights: Any, grid: Grid) -> Any:
    """The values of the levels, with the straight-through gradient."""
    is_number = isinstance(grid.max_code, float)
    forward = _straight_through(
        grid.level_grid, grid.block, grid.max_code if is_number else None
    )
    arguments = [grid.spacing, grid.offset, grid.scale, grid.width]
    if not is_number:
        arguments.append(grid.max_code)
    # A custom gradient in TensorFlow takes tensors, not variables, which
    # `convert_to_tensor` hands through.
    return forward(ops.copy(weights), *arguments)


def codes_and_scale(weights: Any, grid: Grid) -> tuple[Any, Any]:
    """The codes and their scale, without a gradient."""
    if grid.level_grid == "paper":
        raise ValueError(
            "The levels of `level_grid='paper'` are not integer multiples of "
            "one scale, so they have no codes. Received: level_grid='paper'. "
            "Train with 'dead_zone' (int8 codes) or 'uniform' (codes of "
            "`bit_width` bits) to deploy."
        )
    steps = _steps(
        weights,
        grid.spacing,
        grid.offset,
        grid.width,
        grid.max_code,
        grid.block,
    )
    codes, scale = _CODES[grid.level_grid](weights, steps, grid)
    return ops.stop_gradient(codes), ops.stop_gradient(scale)


def zero_fraction(
    weights: Any, grid: Grid, *, temperature: float = TEMPERATURE
) -> Any:
    """The fraction of zeros, with the gradient of a soft count."""
    magnitudes = magnitudes_of(weights)
    blocks = block_magnitudes(magnitudes, grid.block)
    threshold = grid.width / 2
    # The soft count depends on the logit through `ratio` alone. Its slope is
    # computed here, in closed form: nothing is left for a backward pass over
    # the weights, and half as many operations to trace.
    soft = ops.sigmoid((threshold - blocks) / (temperature * grid.abs_bound))
    slope = ops.mean(soft - soft * soft) / temperature
    is_zero = blocks <= threshold
    if grid.level_grid == "uniform" or grid.block > 1:
        # What rounds to zero without being pruned is not in the soft count:
        # there it would hide the gradient of the logit.
        rounded = magnitudes <= _zero_threshold(grid)
        is_zero = ops.logical_or(is_zero, rounded)
    hard = ops.mean(ops.cast(is_zero, soft.dtype))
    change = grid.ratio - ops.stop_gradient(grid.ratio)
    return ops.stop_gradient(hard) + ops.stop_gradient(slope) * change


def magnitudes_of(weights: Any) -> Any:
    """`|weights|` without gradient; float32, also of bfloat16 kernels."""
    return ops.abs(ops.stop_gradient(ops.cast(weights, "float32")))


@dataclasses.dataclass(frozen=True)
class _Steps:
    """Weights counted in levels. All but `level` have the weight's sign.

    Attributes:
        sign: Sign of the weight.
        position: Distance from zero in units of the spacing, not rounded.
        level: Number of the level of the paper, Eq. (10), >= 0.
        index: The same with its sign.
    """

    sign: Any
    position: Any
    level: Any
    index: Any


def _steps(
    weights: Any,
    spacing: Any,
    offset: Any,
    width: Any,
    max_code: Any,
    block: int,
) -> _Steps:
    magnitudes, sign = ops.abs(weights), ops.sign(weights)
    position = ops.relu(magnitudes - offset) / spacing
    level = ops.minimum(ops.round(position), max_code)
    if block > 1:
        # In a block that is kept, a weight below the dead zone takes the
        # nearer one of zero and the first level.
        has_level = magnitudes > (offset + spacing) / 2
        first_or_more = ops.maximum(level, ops.cast(has_level, "float32"))
        kept = block_magnitudes(magnitudes, block) > width / 2
        level = ops.where(kept, first_or_more, 0.0)
    return _Steps(sign, sign * position, level, sign * level)


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


def _zero_threshold(grid: Grid) -> Any:
    """Magnitude up to which a weight that is not pruned rounds to zero."""
    threshold = (grid.offset + grid.spacing) / 2 if grid.block > 1 else 0.0
    if grid.level_grid != "uniform":
        return threshold
    # Half a step, even without a dead zone; 2 bits have one level only.
    return ops.where(grid.max_code > 1, grid.scale / 2, threshold)


def _dead_zone_codes(
    weights: Any, steps: _Steps, grid: Grid
) -> tuple[Any, Any]:
    level = ops.round((grid.offset + grid.spacing * steps.level) / grid.scale)
    # A level below half a lattice step would vanish and change the sparsity.
    # The last one is `abs_bound`, so that none is above 127.
    codes = ops.sign(steps.index) * ops.maximum(level, 1.0)
    return _with_ternary(codes, weights, steps, grid)


def _uniform_codes(weights: Any, steps: _Steps, grid: Grid) -> tuple[Any, Any]:
    codes = ops.round(weights / grid.scale)
    codes = ops.clip(codes, -grid.max_code, grid.max_code)
    kept = block_magnitudes(ops.abs(weights), grid.block) > grid.width / 2
    codes = ops.where(kept, codes, 0.0)
    return _with_ternary(codes, weights, steps, grid)


def _with_ternary(
    codes: Any, weights: Any, steps: _Steps, grid: Grid
) -> tuple[Any, Any]:
    """At 2 bits: codes in {-1, 0, 1}, scale the mean kept magnitude."""
    # Levels of ±abs_bound, as the formula gives at 2 bits, lose 15 to 20
    # points of accuracy against the mean.
    ternary = grid.max_code <= 1.0
    if ternary is False:
        return codes, grid.scale
    mean = _mean_kept_magnitude(weights, steps.index, grid.width.shape)
    return (
        ops.where(ternary, steps.index, codes),
        ops.where(ternary, mean, grid.scale),
    )


def _mean_kept_magnitude(weights: Any, index: Any, shape: Sequence[int]) -> Any:
    """Mean of `|w|` that is not zeroed, per element of `shape`."""
    magnitudes = ops.abs(weights)
    kept = ops.cast(index != 0, magnitudes.dtype)
    total = _sum_to_shape(kept * magnitudes, shape)
    count = _sum_to_shape(kept, shape)
    return ops.maximum(total / ops.maximum(count, 1.0), EPSILON)


_CODES = {"dead_zone": _dead_zone_codes, "uniform": _uniform_codes}


def _sum_to_shape(x: Any, shape: Sequence[int]) -> Any:
    """Sums `x` to a shape that broadcasts to it (size 1, or a scalar)."""
    if len(shape) == 0:
        return ops.sum(x)
    axes = [i for i, size in enumerate(shape) if size == 1]
    return ops.sum(x, axis=axes, keepdims=True) if axes else x


@functools.cache
def _straight_through(
    level_grid: str, block: int, max_code: float | None
) -> Callable[..., Any]:
    """Forward of one grid with the closed-form gradient that all grids share.

    One `custom_gradient` instead of straight-through pieces: two reductions,
    and few operations to trace. `max_code` is None where it is a tensor, the
    last argument.
    """

    @ops.custom_gradient
    def forward(
        weights: Any, spacing: Any, offset: Any, *constants: Any
    ) -> tuple[Any, Callable[..., Any]]:
        scale, width = constants[:2]
        codes_per_sign = constants[2] if max_code is None else max_code
        steps = _steps(weights, spacing, offset, width, codes_per_sign, block)
        if level_grid == "paper":
            quantized = ops.sign(steps.index) * offset + spacing * steps.index
        else:
            grid = Grid(
                level_grid=level_grid,
                block=block,
                abs_bound=None,
                ratio=None,
                width=width,
                spacing=spacing,
                offset=offset,
                scale=scale,
                max_code=codes_per_sign,
            )
            codes, scale = _CODES[level_grid](weights, steps, grid)
            quantized = codes * scale

        def gradient(*args: Any, upstream: Any = None) -> tuple[Any, ...]:
            if upstream is None:
                (upstream,) = args
            to_weights = upstream
            if level_grid == "paper":
                to_weights = upstream * ops.abs(steps.sign)
            to_spacing = upstream * (steps.index - steps.position)
            to_offset = upstream * (ops.sign(steps.index) - steps.sign)
            return (
                to_weights,
                _sum_to_shape(to_spacing, spacing.shape),
                _sum_to_shape(to_offset, offset.shape),
                *(ops.zeros_like(constant) for constant in constants),
            )

        return quantized, gradient

    return forward
