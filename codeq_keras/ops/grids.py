"""The grids of levels: one class for each, and the gradient they share.

The documented functions are in `codeq_keras.ops`. A new grid is a subclass of
`Grid`, listed in `GRIDS`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

from keras import ops

from codeq_keras.ops.blocks import block_magnitudes, magnitudes_of
from codeq_keras.ops.intervals import Interval, is_number, require_number

# The int8 lattice is symmetric, [-127, 127]: a negative BatchNorm gamma flips
# the sign of a channel's codes, and -128 has no positive counterpart.
_INT8_MAX_CODE = 127

# Added to the level spacing, as in the published code, so that a dead zone
# over the whole range does not divide by zero.
EPSILON = 1e-8

# Width of the soft step that stands for the count of zeros in the backward
# pass, as a fraction of the bound: larger reaches more weights, less exactly.
TEMPERATURE = 0.05

_BIT_WIDTHS = Interval(2, 8, has_low=True, has_high=True)


def ratio_from_logit(dead_zone_logit: Any) -> Any:
    """Half width of the dead zone as a fraction of the bound, Eq. (15)."""
    logit = ops.convert_to_tensor(dead_zone_logit, dtype="float32")
    return 1.0 - ops.abs(ops.tanh(logit))


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


@dataclasses.dataclass(frozen=True)
class Grid:
    """The numbers that define the levels, for one kernel or for many.

    Only `ratio`, `spacing` and `offset` have a gradient. A subclass says in
    `_codes` which levels are deployed, and overrides what else differs.

    Attributes:
        name: The `level_grid` of a `CoDeQConfig`.
        has_codes: Whether the levels are integers times one scale.
        has_plain_logits: Whether the optimizer moves the logits itself.
        block: Channels that are pruned together.
        abs_bound: Magnitude of the largest level.
        ratio: Half width of the dead zone as a fraction of `abs_bound`.
        width: Full width of the dead zone.
        spacing: Distance of two levels of the same sign.
        offset: Distance from zero to the level that would precede the first.
        scale: Real value of one code; of none without codes.
        max_code: Levels of one sign: a Python float where the bit width is
            a number, which leaves out of the graph what 2 bits need.
    """

    name: ClassVar[str]
    has_codes: ClassVar[bool] = True
    has_plain_logits: ClassVar[bool] = False

    block: int
    abs_bound: Any
    ratio: Any
    width: Any
    spacing: Any
    offset: Any
    scale: Any
    max_code: Any

    @classmethod
    def make(
        cls, abs_bound: Any, dead_zone_logit: Any, max_code: Any, block: int
    ) -> Self:
        """Returns the grid; elementwise, so the arguments may be vectors."""
        ratio = ratio_from_logit(dead_zone_logit)
        width = 2.0 * abs_bound * ratio
        # Eq. (12) and (17): the largest level is always `abs_bound`.
        spacing = (abs_bound - width / 2) / (max_code - 0.5)
        spacing = spacing + cls._epsilon(abs_bound)
        return cls(
            block=block,
            abs_bound=abs_bound,
            ratio=ratio,
            width=ops.stop_gradient(width),
            spacing=spacing,
            offset=(width - spacing) / 2,
            scale=ops.stop_gradient(abs_bound / cls._largest_code(max_code)),
            max_code=_stop_gradient(max_code),
        )

    def tensors(self) -> dict[str, Any]:
        """The fields that differ between kernels of one config."""
        fields = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self)
        }
        del fields["block"]
        if isinstance(self.max_code, float):
            del fields["max_code"]
        return fields

    def fake_quantize(self, weights: Any) -> Any:
        """The values of the levels, with the straight-through gradient."""
        is_number = isinstance(self.max_code, float)
        forward = _straight_through(
            self.name, self.block, self.max_code if is_number else None
        )
        arguments = [self.spacing, self.offset, self.scale, self.width]
        if not is_number:
            arguments.append(self.max_code)
        # A custom gradient in TensorFlow takes tensors, not variables, which
        # `convert_to_tensor` hands through.
        return forward(ops.copy(weights), *arguments)

    def codes_and_scale(self, weights: Any) -> tuple[Any, Any]:
        """The codes and their scale, without a gradient."""
        codes, scale = self._codes(weights, self.steps(weights))
        return ops.stop_gradient(codes), ops.stop_gradient(scale)

    def zero_fraction(self, weights: Any) -> Any:
        """The fraction of zeros, with the gradient of a soft count."""
        blocks = block_magnitudes(magnitudes_of(weights), self.block)
        # The soft count depends on the logit through `ratio` alone. Its slope
        # is computed here, in closed form: nothing is left for a backward pass
        # over the weights, and half as many operations to trace.
        distance = self.width / 2 - blocks
        distance = distance / (TEMPERATURE * self.abs_bound)
        soft = ops.sigmoid(distance)
        # Weights of exactly zero, as a pattern has, are zero in any dead zone.
        slopes = (soft - soft * soft) * ops.sign(blocks)
        slope = ops.mean(slopes) / TEMPERATURE
        change = self.ratio - ops.stop_gradient(self.ratio)
        return self.count_zeros(weights) + ops.stop_gradient(slope) * change

    def count_zeros(self, weights: Any) -> Any:
        """The fraction of zeros, without a gradient."""
        magnitudes = magnitudes_of(weights)
        is_zero = block_magnitudes(magnitudes, self.block) <= self.width / 2
        rounded = self._rounds_to_zero_below()
        if rounded is not None:
            # Weights that only round to zero are not in the soft count: there
            # they would hide the gradient of the logit.
            is_zero = ops.logical_or(is_zero, magnitudes <= rounded)
        zeros = ops.mean(ops.cast(is_zero, magnitudes.dtype))
        return ops.stop_gradient(zeros)

    def steps(self, weights: Any) -> _Steps:
        """Counts the weights in levels, Eq. (10)."""
        magnitudes, sign = ops.abs(weights), ops.sign(weights)
        position = ops.relu(magnitudes - self.offset) / self.spacing
        level = ops.minimum(ops.round(position), self.max_code)
        if self.block > 1:
            # In a block that is kept, a weight below the dead zone takes the
            # nearer one of zero and the first level.
            has_level = magnitudes > (self.offset + self.spacing) / 2
            first_or_more = ops.maximum(level, ops.cast(has_level, "float32"))
            kept = block_magnitudes(magnitudes, self.block) > self.width / 2
            level = ops.where(kept, first_or_more, 0.0)
        return _Steps(sign, sign * position, level, sign * level)

    def values(self, weights: Any, steps: _Steps) -> Any:
        """The values of the levels."""
        codes, scale = self._codes(weights, steps)
        return codes * scale

    @staticmethod
    def gradient_of_weights(upstream: Any, steps: _Steps) -> Any:
        """The gradient of the weights: all learn, also those at 0.0."""
        return upstream

    def _codes(self, weights: Any, steps: _Steps) -> tuple[Any, Any]:
        """The codes and their scale."""
        raise NotImplementedError

    @staticmethod
    def _epsilon(abs_bound: Any) -> Any:
        # Relative: it suits tiny weights as well.
        return EPSILON * abs_bound

    @staticmethod
    def _largest_code(max_code: Any) -> Any:
        """The code of `abs_bound`."""
        return _INT8_MAX_CODE

    def _rounds_to_zero_below(self) -> Any | None:
        """Magnitude up to which a weight that is kept is zero; None if none."""
        if self.block == 1:
            return None
        # The edge of the first level, or half of it, whichever is nearer.
        first = self.offset + self.spacing
        return ops.minimum(first / 2, first - self.spacing / 2)

    def _with_ternary(
        self, codes: Any, weights: Any, steps: _Steps
    ) -> tuple[Any, Any]:
        """At 2 bits: codes in {-1, 0, 1}, scale the mean kept magnitude."""
        # Levels of ±abs_bound, as the formula gives at 2 bits, lose 15 to 20
        # points of accuracy against the mean.
        if isinstance(self.max_code, float) and self.max_code > 1:
            return codes, self.scale
        mean = _mean_kept_magnitude(weights, steps.index, self.width.shape)
        is_ternary = self.max_code <= 1
        return (
            ops.where(is_ternary, steps.index, codes),
            ops.where(is_ternary, mean, self.scale),
        )


class DeadZoneGrid(Grid):
    """The paper's levels, each snapped to a multiple of `abs_bound / 127`."""

    name = "dead_zone"

    def _codes(self, weights: Any, steps: _Steps) -> tuple[Any, Any]:
        level = ops.round(
            (self.offset + self.spacing * steps.level) / self.scale
        )
        # A level below half a lattice step would vanish and change the
        # sparsity. The last one is `abs_bound`, so that none is above 127.
        codes = ops.sign(steps.index) * ops.maximum(level, 1.0)
        return self._with_ternary(codes, weights, steps)


class UniformGrid(Grid):
    """Multiples of `abs_bound / max_code`: codes that fit in few bits."""

    name = "uniform"

    def _codes(self, weights: Any, steps: _Steps) -> tuple[Any, Any]:
        codes = ops.round(weights / self.scale)
        codes = ops.clip(codes, -self.max_code, self.max_code)
        magnitudes = block_magnitudes(ops.abs(weights), self.block)
        codes = ops.where(magnitudes > self.width / 2, codes, 0.0)
        return self._with_ternary(codes, weights, steps)

    @staticmethod
    def _largest_code(max_code: Any) -> Any:
        return max_code

    def _rounds_to_zero_below(self) -> Any:
        # Half a step, even without a dead zone; 2 bits have one level only.
        threshold = super()._rounds_to_zero_below()
        threshold = 0.0 if threshold is None else threshold
        return ops.where(self.max_code > 1, self.scale / 2, threshold)


class PaperGrid(Grid):
    """The levels and the logits as published."""

    name = "paper"
    has_codes = False
    has_plain_logits = True

    def values(self, weights: Any, steps: _Steps) -> Any:
        """The values of the levels, Eq. (10)."""
        return ops.sign(steps.index) * self.offset + self.spacing * steps.index

    @staticmethod
    def gradient_of_weights(upstream: Any, steps: _Steps) -> Any:
        """The gradient of the weights: none to a weight of exactly 0.0."""
        return upstream * ops.abs(steps.sign)

    def _codes(self, weights: Any, steps: _Steps) -> tuple[Any, Any]:
        raise ValueError(
            "The levels of `level_grid='paper'` are not integer multiples of "
            "one scale, so they have no codes. Received: level_grid='paper'. "
            "Train with 'dead_zone' (int8 codes) or 'uniform' (codes of "
            "`bit_width` bits) to deploy."
        )

    @staticmethod
    def _epsilon(abs_bound: Any) -> Any:
        return EPSILON  # The published constant.


GRIDS: dict[str, type[Grid]] = {
    kind.name: kind for kind in (DeadZoneGrid, UniformGrid, PaperGrid)
}
LEVEL_GRIDS = tuple(GRIDS)


def make_grid(
    abs_bound: Any,
    dead_zone_logit: Any,
    bit_width: Any,
    level_grid: str,
    block: int = 1,
) -> Grid:
    """Returns the grid; elementwise, so the arguments may be vectors."""
    if level_grid not in GRIDS:
        raise ValueError(
            f"`level_grid` must be one of {LEVEL_GRIDS}. "
            f"Received: level_grid={level_grid!r}."
        )
    if is_number(bit_width) or isinstance(bit_width, str):
        require_number("bit_width", bit_width, _BIT_WIDTHS)
        max_code = 2.0 ** (float(bit_width) - 1) - 1.0
    else:
        bit_width = ops.convert_to_tensor(bit_width, dtype="float32")
        max_code = ops.power(2.0, bit_width - 1.0) - 1.0
    # The bound is not differentiated: paper, section 5.1.
    abs_bound = ops.stop_gradient(
        ops.convert_to_tensor(abs_bound, dtype="float32")
    )
    return GRIDS[level_grid].make(abs_bound, dead_zone_logit, max_code, block)


def _stop_gradient(value: Any) -> Any:
    return value if isinstance(value, float) else ops.stop_gradient(value)


def _mean_kept_magnitude(weights: Any, index: Any, shape: Sequence[int]) -> Any:
    """Mean of `|w|` that is not zeroed, per element of `shape`."""
    magnitudes = ops.abs(weights)
    kept = ops.cast(index != 0, magnitudes.dtype)
    total = _sum_to_shape(kept * magnitudes, shape)
    count = _sum_to_shape(kept, shape)
    return ops.maximum(total / ops.maximum(count, 1.0), EPSILON)


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
        grid = GRIDS[level_grid](
            block=block,
            abs_bound=None,
            ratio=None,
            spacing=spacing,
            offset=offset,
            scale=constants[0],
            width=constants[1],
            max_code=constants[2] if max_code is None else max_code,
        )
        steps = grid.steps(weights)

        def gradient(*args: Any, upstream: Any = None) -> tuple[Any, ...]:
            if upstream is None:
                (upstream,) = args
            to_spacing = upstream * (steps.index - steps.position)
            to_offset = upstream * (ops.sign(steps.index) - steps.sign)
            return (
                grid.gradient_of_weights(upstream, steps),
                _sum_to_shape(to_spacing, spacing.shape),
                _sum_to_shape(to_offset, offset.shape),
                *(ops.zeros_like(constant) for constant in constants),
            )

        return grid.values(weights, steps), gradient

    return forward
