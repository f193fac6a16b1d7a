"""ActivationQuantizer: the moving range of one activation, fake-quantized."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from codeq_keras.ops.intervals import as_python, is_number

ACTIVATION_BIT_WIDTHS = (8,)

# How much of the range one batch replaces, once it has settled. Until then the
# range is the mean over the batches so far.
_RATE = 0.01

# The most that a batch counts for, as a multiple of the range's width. A range
# that has to grow does, by 3 % a step once it has settled.
_MAX_GROWTH = 4.0

# Below this width an activation is always zero, as after a layer that was
# pruned away. Every range fits it then, and a tiny scale crashes LiteRT.
_MIN_WIDTH = 1e-6
_ZERO_WIDTH = 1.0

# As a part of its width: a tenth of a step, far more than float32 rounds.
_CENTERED = 0.1 / 255

# A half, and float32 rounding of up to 255 steps, so that a tie is one. The
# averages nearest to a tie are further off, for windows of up to 20x20.
_TIE = 0.5 + 1e-3


def require_activation_bit_width(
    activation_bit_width: int | None,
) -> int | None:
    """Returns the bits, or None; a ValueError where activations have others."""
    if activation_bit_width not in (None, *ACTIVATION_BIT_WIDTHS):
        raise ValueError(
            "`activation_bit_width` must be None or one of "
            f"{ACTIVATION_BIT_WIDTHS}. Received: "
            f"activation_bit_width={activation_bit_width!r}."
        )
    return as_python(activation_bit_width)


def _as_range(fixed_range: Any) -> tuple[float, float]:
    """Returns both ends; a ValueError for what is no pair in order."""
    if isinstance(fixed_range, tuple | list) and len(fixed_range) == 2:
        low, high = fixed_range
        if is_number(low) and is_number(high) and low < high:
            return float(low), float(high)
    raise ValueError(
        "`fixed_range` must be None or two numbers, low < high. "
        f"Received: fixed_range={fixed_range!r}."
    )


@dataclasses.dataclass(frozen=True)
class ActivationRange:
    """The range of an activation as an int8 tensor of a file has it.

    Real values are `scale * (code - zero_point)`, with codes in [-128, 127].

    Attributes:
        scale: Float > 0, the distance of two levels.
        zero_point: Integer in [-128, 127], the code of the value 0.
        is_dead: Whether the activation was always zero, so that any scale
            fits it.
    """

    scale: float
    zero_point: int
    is_dead: bool = dataclasses.field(default=False, repr=False)

    @property
    def low(self) -> float:
        """The least value, <= 0."""
        return self.scale * (-128 - self.zero_point)

    @property
    def high(self) -> float:
        """The largest value, >= 0."""
        return self.scale * (127 - self.zero_point)


def nudged_range(low: float, high: float) -> ActivationRange:
    """Returns the int8 range nearest to `[low, high]`, as TFLite chooses it.

    The range is widened to contain 0 and moved by up to half a step, so that
    0, the value of padding and of pruned weights, is one of the levels. A range
    with 0 in its middle, as of images that were scaled to [-1, 1], gets one
    step more above: with 0 halfway between two levels, every pixel would be.

    Example:

    >>> nudged_range(-64.0, 191.0)
    ActivationRange(scale=1.0, zero_point=-64)
    >>> nudged_range(-127.0, 127.0)
    ActivationRange(scale=1.0, zero_point=-1)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    width = high - low
    is_dead = width < _MIN_WIDTH
    if is_dead:
        high = low + _ZERO_WIDTH
    elif abs(low + high) < _CENTERED * width:
        high += width / 254
    scale = (high - low) / 255
    zero_point = np.clip(np.floor(-128 - low / scale + 0.5), -128, 127)
    return ActivationRange(scale, int(zero_point), is_dead)


@keras.saving.register_keras_serializable(package="codeq_keras")
class ActivationQuantizer(keras.layers.Layer):
    """Rounds an activation to 8 bits, within a range it observes in training.

    In training the layer first moves its range towards the least and the
    largest value of the batch, by an exponential moving average that begins as
    the plain mean over the first batches. Then it rounds to the 256 levels of
    an int8 tensor:

        scale = (high - low) / 255              # low <= 0 <= high
        # (high - low) / 254 where low = -high, so that 0 is on no tie.
        zero_point = round(-128 - low / scale)  # so that 0 is a level
        codes = clip(round(x / scale) + zero_point, -128, 127)
        outputs = scale * (codes - zero_point)

    Outside of training the range is held. A layer that has seen no batch
    returns its input. With `trainable=False` it observes nothing more.

    The gradient passes unchanged where `low <= x <= high`, and is zero outside.
    A batch counts for four widths of the range at most, and one with NaN for
    none, so a broken sample does not ruin a range. The first batch counts as it
    is.

    Args:
        fixed_range: None to observe the range, or the tuple `(low, high)`
            that TFLite prescribes for the output of an operator.

    Input shape:
        Any.

    Output shape:
        The input shape.

    Example:

    >>> quantizer = ActivationQuantizer()
    >>> x = np.array([-64.0, 0.3, 191.0], "float32")
    >>> bool(quantizer.has_range)
    False
    >>> ops.convert_to_numpy(quantizer(x, training=True)).tolist()
    [-64.0, 0.0, 191.0]
    >>> quantizer.range.zero_point
    -64

    Reference:

    - [Jacob et al., 2017](https://arxiv.org/abs/1712.05877), section 3.1.
      Differs from it in: the first batches are averaged, so the layer need
      not be delayed.
    """

    def __init__(
        self,
        *,
        fixed_range: tuple[float, float] | None = None,
        **kwargs: Any,
    ) -> None:
        # Ranges are float32 under every policy, mixed precision included.
        kwargs.setdefault("dtype", "float32")
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        self.fixed_range = None
        if fixed_range is not None:
            self.fixed_range = _as_range(fixed_range)

    def build(self, input_shape: Any = None) -> None:
        """Creates the range, unless it is fixed."""
        if self.fixed_range is None:
            self.low = self._state("low")
            self.high = self._state("high")
            self.num_updates = self._state("num_updates")
        self.built = True

    def _state(self, name: str) -> keras.Variable:
        return self.add_weight(
            shape=(), initializer="zeros", trainable=False, name=name
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the rounded activation; observes it first in training."""
        if self.fixed_range is not None:
            return _fake_quantize(inputs, *self.fixed_range)
        if training and self.trainable:
            self._observe(ops.cast(ops.stop_gradient(inputs), "float32"))
            return _fake_quantize(inputs, self.low, self.high)
        rounded = _fake_quantize(inputs, self.low, self.high)
        return self._if_seen(rounded, inputs)

    def round_average(self, inputs: Any) -> Any:
        """Rounds averages of rounded values as TFLite's pooling does.

        See `rounded_average`. The range is held, and the gradient passes
        unchanged.

        Args:
            inputs: Averages of values that this quantizer rounded.
        """
        values = rounded_average(inputs, self.low, self.high)
        values = self._if_seen(values, inputs)
        return inputs + ops.stop_gradient(values - inputs)

    def round_joined(self, inputs: Any, training: bool | None = None) -> Any:
        """Rounds a part of a joined tensor at the range of the whole.

        In training nothing is clipped, or the range could not grow: the whole
        contains these values.

        Args:
            inputs: A tensor that becomes a part of the one that is observed.
            training: Whether this is a training step.
        """
        low, high = self.low, self.high
        if training and self.trainable:
            low = ops.minimum(low, ops.min(inputs))
            high = ops.maximum(high, ops.max(inputs))
        return self._if_seen(_fake_quantize(inputs, low, high), inputs)

    def _if_seen(self, rounded: Any, inputs: Any) -> Any:
        """The rounded values, or the inputs before there is a range."""
        # A scalar decides, so this costs nothing where XLA fuses it.
        return ops.where(self.num_updates > 0, rounded, inputs)

    def _observe(self, values: Any) -> None:
        rate = ops.maximum(1.0 / (self.num_updates + 1.0), _RATE)
        # One broken sample must not ruin the range for thousands of steps.
        width = self.high - self.low
        limit = ops.where(width > 0, _MAX_GROWTH * width, math.inf)
        for held, seen in (
            (self.low, ops.clip(ops.min(values), -limit, 0.0)),
            (self.high, ops.clip(ops.max(values), 0.0, limit)),
        ):
            seen = ops.where(ops.isnan(seen), held, seen)
            held.assign(held + rate * (seen - held))
        self.num_updates.assign(self.num_updates + 1.0)

    @property
    def has_range(self) -> bool:
        """Whether a range is fixed or a batch was seen."""
        if self.fixed_range is not None:
            return True
        return self.built and float(self.num_updates) > 0

    @property
    def range(self) -> ActivationRange | None:
        """The held range as int8 has it; None if no batch was seen."""
        if not self.has_range:
            return None
        if self.fixed_range is not None:
            return nudged_range(*self.fixed_range)
        return nudged_range(float(self.low), float(self.high))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = {**super().get_config(), "fixed_range": self.fixed_range}
        return config


def _fake_quantize(inputs: Any, low: Any, high: Any) -> Any:
    low, high = usable_range(low, high)
    return keras.quantizers.fake_quant_with_min_max_vars(
        inputs, low, high, num_bits=8
    )


def rounded_average(inputs: Any, low: Any, high: Any) -> Any:
    """Returns averages of rounded values as TFLite's pooling rounds them.

    It averages the codes, and rounds ties away from code 0, not upwards. Ties
    are frequent: half of the sums of two codes.
    """
    return average_at(inputs, *usable_range(low, high))


def average_at(inputs: Any, low: Any, high: Any) -> Any:
    """Rounds as `rounded_average`, in a range that is usable already."""
    scale = (high - low) / 255
    floor = math.floor if isinstance(low, float) else ops.floor
    zero_point = floor(-128 - low / scale + 0.5)
    codes = ops.cast(inputs, "float32") / scale + zero_point
    rounded = ops.sign(codes) * ops.floor(ops.abs(codes) + _TIE)
    return ops.cast((rounded - zero_point) * scale, inputs.dtype)


def usable_range(low: Any, high: Any) -> tuple[Any, Any]:
    """Returns the range that is nudged, as in `nudged_range`, as tensors."""
    low = ops.stop_gradient(ops.convert_to_tensor(low, "float32"))
    high = ops.stop_gradient(ops.convert_to_tensor(high, "float32"))
    width = high - low
    is_centered = ops.abs(low + high) < _CENTERED * width
    high = ops.where(is_centered, high + width / 254, high)
    return low, ops.where(width < _MIN_WIDTH, low + _ZERO_WIDTH, high)
