"""Pure functions of the dead-zone quantizer, in `keras.ops`. No state.

Everything here runs unchanged on the TensorFlow and JAX backends, eagerly,
in a compiled graph and inside a `tf_keras` layer.
"""

import math
from typing import Any

from keras import ops

from codeq_keras.ops.blocks import magnitudes_of
from codeq_keras.ops.grids import EPSILON, make_grid, ratio_from_logit
from codeq_keras.ops.intervals import Interval, require_number


def abs_bound(
    weights: Any,
    *,
    range_quantile: float = 0.99,
    axis: int | tuple[int, ...] | None = None,
) -> Any:
    """Returns a quantile of `|weights|`: the magnitude of the largest level.

    The quantile interpolates linearly between order statistics, as
    `numpy.quantile` does. Weights above it saturate at the largest level, so
    a few outliers do not stretch the grid. No gradient flows through it.

    Args:
        weights: Float tensor of any shape with at least one element.
        range_quantile: Float in (0, 1]. 1 gives the maximum.
        axis: None for one bound per tensor, or the axis (or axes) that keep a
            bound of their own, for example -1 for one per output channel of a
            convolution kernel.

    Returns:
        Float tensor, > 0: a scalar for `axis=None`, else of the rank of
        `weights` with size 1 in all other axes, so that it broadcasts.

    Raises:
        ValueError: If `range_quantile` is outside (0, 1].

    Example:

    >>> import keras
    >>> weights = keras.ops.array([-1.0, -0.3, -0.1, 0.2, 0.6])
    >>> float(abs_bound(weights, range_quantile=0.5))
    0.30000001192092896

    Reference:

    - [CoDeQ, 2025](https://arxiv.org/abs/2512.12981), section 6.1.
      Differs from it in: an all-zero tensor has the bound 1e-8, not 0.
    """
    require_number(
        "range_quantile", range_quantile, Interval(0, 1, has_high=True)
    )
    magnitudes = magnitudes_of(weights)
    rank = len(magnitudes.shape)
    kept = _canonical_axes(axis, rank)
    bound_shape = [magnitudes.shape[i] if i in kept else 1 for i in range(rank)]
    reduced = [i for i in range(rank) if i not in kept]
    count = math.prod(magnitudes.shape[i] for i in reduced)
    order = [*kept, *reduced]
    if order != sorted(order):
        magnitudes = ops.transpose(magnitudes, order)
    rows = ops.reshape(magnitudes, (-1, count))

    # `top_k` of the largest percent is one op and a third of the cost of the
    # sort inside `ops.quantile`; the order statistics are the same.
    position = range_quantile * (count - 1)
    below = min(math.floor(position), count - 1)
    largest, _ = ops.top_k(rows, count - below)
    bound = largest[:, -1]
    if position > below:
        above = largest[:, -2]
        bound = bound + (position - below) * (above - bound)
    bound = ops.maximum(bound, EPSILON)
    return ops.reshape(bound, () if axis is None else bound_shape)


def bit_width_from_logit(
    logit: Any, *, min_bit_width: Any, max_bit_width: Any
) -> Any:
    """Maps an unconstrained logit to a whole number of bits.

        bit_width = round(min + (max - min) * |tanh(logit)|)

    The gradient is straight-through on `round`: that of the bracket.

    Args:
        logit: Float tensor of any shape, the paper's theta_bit. A small
            magnitude means few bits.
        min_bit_width: Integer, bits at `logit == 0`; or a float tensor of
            them, which broadcasts.
        max_bit_width: Integer >= `min_bit_width`, bits at a large `|logit|`;
            or a tensor of them.

    Returns:
        Float tensor of whole numbers in `[min_bit_width, max_bit_width]`.

    Raises:
        ValueError: If `max_bit_width < min_bit_width`.

    Example:

    >>> import keras
    >>> logits = keras.ops.array([0.0, 0.5, 3.0])
    >>> bits = bit_width_from_logit(logits, min_bit_width=2, max_bit_width=8)
    >>> [int(b) for b in bits]
    [2, 5, 8]

    Reference:

    - [CoDeQ, 2025](https://arxiv.org/abs/2512.12981), Eq. (18).
      Differs from it in: nothing.
    """
    if not ops.is_tensor(min_bit_width):
        require_number("min_bit_width", min_bit_width, Interval(0))
    if not ops.is_tensor(max_bit_width):
        require_number("max_bit_width", max_bit_width, Interval(0))
    is_known = not (
        ops.is_tensor(min_bit_width) or ops.is_tensor(max_bit_width)
    )
    if is_known and max_bit_width < min_bit_width:
        raise ValueError(
            "`max_bit_width` must be >= `min_bit_width`. Received: "
            f"min_bit_width={min_bit_width}, max_bit_width={max_bit_width}."
        )
    span = max_bit_width - min_bit_width
    logit = ops.convert_to_tensor(logit)
    return round_ste(min_bit_width + span * ops.abs(ops.tanh(logit)))


def logit_from_bit_width(
    bit_width: int, *, min_bit_width: int, max_bit_width: int
) -> float:
    """A logit of these bits, see `bit_width_from_logit`, that can move."""
    if max_bit_width == min_bit_width:
        return 3.0
    # At the logit 0 there is no gradient, and none at infinity.
    part = (bit_width + 0.4 - min_bit_width) / (max_bit_width - min_bit_width)
    return math.atanh(min(part, 0.99))


def dead_zone_width(dead_zone_logit: Any, *, abs_bound: Any) -> Any:
    """Returns the full width `d` of the interval of weights mapped to zero.

        d = 2 * abs_bound * (1 - |tanh(dead_zone_logit)|)

    A weight is pruned where `|w| <= d / 2`. A small `|logit|` prunes much.

    Args:
        dead_zone_logit: Float tensor, the paper's theta_dz.
        abs_bound: Float tensor > 0, as returned by `abs_bound`.

    Returns:
        Float tensor in `[0, 2 * abs_bound]`, of the broadcast shape.

    Example:

    >>> round(float(dead_zone_width(1.0, abs_bound=0.5)), 4)
    0.2384

    Reference:

    - [CoDeQ, 2025](https://arxiv.org/abs/2512.12981), Eq. (15).
      Differs from it in: nothing.
    """
    return 2.0 * abs_bound * ratio_from_logit(dead_zone_logit)


def fake_quantize(
    weights: Any,
    *,
    abs_bound: Any,
    dead_zone_logit: Any,
    bit_width: Any,
    level_grid: str = "dead_zone",
    sparsity_block: int = 1,
) -> Any:
    """Prunes and rounds weights to the levels that will be deployed.

    With the dead zone `d` of `dead_zone_width`, the largest code
    `Q = 2 ** (bit_width - 1) - 1`, the level spacing
    `s = (abs_bound - d / 2) / (Q - 1 / 2)` and `offset = (d - s) / 2`, the
    levels are zero and `±(offset + k * s)`, `k` in 1..Q:

    - `"paper"`: exactly these. They are not multiples of one scale.
    - `"dead_zone"`: each snapped to the nearest multiple of
      `abs_bound / 127`, so that a level is an int8 code times one scale.
    - `"uniform"`: multiples of `abs_bound / Q`, zero where `|w| <= d / 2`;
      the codes fit in `bit_width` bits.

    With `sparsity_block` b > 1, each b neighbours on the last axis, the output
    channels, are pruned together: where the root mean square of their
    magnitudes is within `d / 2`. The others take their nearest level, zero
    included. ARM's sparse kernels work on pairs of channels.

    On the last two grids 2 bits (`Q = 1`) use the mean magnitude of the
    weights outside the dead zone as their single level, and the result equals
    `dequantize(*quantize(...))` bit for bit.

    Gradient: straight-through on round, relu and clip, closed form, and the
    same on all grids. With `g` the gradient of the result and `q` the index
    of the paper's level, `dL/dweights = g`,
    `dL/ds = sum(g * (q - sign(w) * relu(|w| - offset) / s))` and
    `dL/doffset = sum(g * (sign(q) - sign(w)))`; these two continue to
    `dead_zone_logit` and `bit_width`. `abs_bound` receives none. On `"paper"`
    a weight of exactly 0.0 receives none either, as in the published code; on
    the others it does, so that an all-zero kernel can learn.

    Args:
        weights: Float tensor of any shape.
        abs_bound: Float tensor > 0 that broadcasts to `weights`: a scalar, or
            one bound per channel.
        dead_zone_logit: Float scalar, the paper's theta_dz.
        bit_width: Integer, or a scalar tensor of `bit_width_from_logit`, in
            2..8; sign included.
        level_grid: `"dead_zone"`, `"uniform"` or `"paper"`.
        sparsity_block: Integer >= 1, channels that are pruned together.

    Returns:
        Float tensor of the shape of `weights` with at most `2 * Q + 1`
        distinct values per bound.

    Raises:
        ValueError: If `level_grid` or a Python-number `bit_width` is not one
            of the above.

    Example:

    >>> import keras
    >>> weights = keras.ops.array([-1.0, -0.3, -0.1, 0.2, 0.6, 1.0])
    >>> quantized = fake_quantize(
    ...     weights, abs_bound=1.0, dead_zone_logit=0.97296, bit_width=3,
    ...     level_grid="paper",
    ... )
    >>> keras.ops.convert_to_numpy(quantized).round(3)
    array([-1. , -0.4,  0. ,  0. ,  0.7,  1. ], dtype=float32)

    Reference:

    - [CoDeQ, 2025](https://arxiv.org/abs/2512.12981), Eq. (10), (12), (15)
      and (17). Differs from it in: the grids other than `"paper"`.
    """
    grid = make_grid(
        abs_bound, dead_zone_logit, bit_width, level_grid, sparsity_block
    )
    return grid.fake_quantize(ops.convert_to_tensor(weights))


def quantize(
    weights: Any,
    *,
    abs_bound: Any,
    dead_zone_logit: Any,
    bit_width: Any,
    level_grid: str = "dead_zone",
    sparsity_block: int = 1,
) -> tuple[Any, Any]:
    """Maps weights to the integer codes and the scale that are deployed.

    Args:
        weights: As in `fake_quantize`.
        abs_bound: As in `fake_quantize`.
        dead_zone_logit: As in `fake_quantize`.
        bit_width: As in `fake_quantize`.
        level_grid: `"dead_zone"` (codes in [-127, 127], few distinct values)
            or `"uniform"` (codes in `[-Q, Q]`).
        sparsity_block: As in `fake_quantize`.

    Returns:
        Tuple `(codes, scale)`. `codes`: float tensor of whole numbers with the
        shape of `weights`. `scale`: float tensor > 0 of the shape of
        `abs_bound`, `weight = code * scale`. Neither has a gradient.

    Raises:
        ValueError: If `level_grid="paper"`, whose levels are no integer
            multiples of one scale, or an argument is out of range.

    Example:

    >>> import keras
    >>> weights = keras.ops.array([-1.0, -0.3, -0.1, 0.2, 0.6, 1.0])
    >>> codes, scale = quantize(
    ...     weights, abs_bound=1.0, dead_zone_logit=0.97296, bit_width=3
    ... )
    >>> keras.ops.convert_to_numpy(codes).astype("int8")
    array([-127,  -51,    0,    0,   89,  127], dtype=int8)
    """
    grid = make_grid(
        abs_bound, dead_zone_logit, bit_width, level_grid, sparsity_block
    )
    return grid.codes_and_scale(ops.cast(weights, "float32"))


def dequantize(codes: Any, scale: Any) -> Any:
    """Maps integer codes back to weights: `codes * scale`.

    Args:
        codes: Tensor of whole numbers of any shape.
        scale: Float tensor > 0 that broadcasts to `codes`.

    Returns:
        Float tensor of the shape of `codes`.

    Example:

    >>> import keras
    >>> float(dequantize(keras.ops.array(3.0), keras.ops.array(0.25)))
    0.75
    """
    return codes * scale


def zero_fraction(
    weights: Any,
    *,
    abs_bound: Any,
    dead_zone_logit: Any,
    bit_width: Any,
    level_grid: str = "dead_zone",
    sparsity_block: int = 1,
) -> Any:
    """Returns the fraction of weights mapped to zero, learnable by the logit.

    The value is the exact count; the gradient is that of the soft count
    `mean(sigmoid((d / 2 - |w|) / (0.05 * abs_bound)))`, with the root mean
    square of the block for `|w|` where there are blocks. It goes to the logit
    only: into the weights it costs 1 to 2 points of accuracy.

    Args:
        weights: As in `fake_quantize`.
        abs_bound: As in `fake_quantize`.
        dead_zone_logit: As in `fake_quantize`.
        bit_width: As in `fake_quantize`.
        level_grid: As in `fake_quantize`.
        sparsity_block: As in `fake_quantize`.

    Returns:
        Float scalar in [0, 1].

    Example:

    >>> import keras
    >>> weights = keras.ops.array([-1.0, -0.3, -0.1, 0.2, 0.6, 1.0])
    >>> float(zero_fraction(
    ...     weights, abs_bound=1.0, dead_zone_logit=0.97296, bit_width=3
    ... ))
    0.3333333432674408
    """
    grid = make_grid(
        abs_bound, dead_zone_logit, bit_width, level_grid, sparsity_block
    )
    return grid.zero_fraction(weights)


def round_ste(x: Any) -> Any:
    """Rounds half to even; the gradient is that of the identity.

    Args:
        x: Float tensor of any shape.

    Returns:
        Float tensor of whole numbers, of the shape of `x`.

    Example:

    >>> import keras
    >>> float(round_ste(keras.ops.array(2.5)))
    2.0
    """
    return x + ops.stop_gradient(ops.round(x) - x)


def _canonical_axes(
    axis: int | tuple[int, ...] | None, rank: int
) -> tuple[int, ...]:
    if axis is None:
        return ()
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    return tuple(sorted(i % rank for i in axes))
