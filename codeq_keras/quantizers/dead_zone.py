"""DeadZoneQuantizer: the levels of one kernel and its integers."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from codeq_keras import ops
from codeq_keras.config import CoDeQConfig, require_config
from codeq_keras.ops.blocks import keep_two_of_four
from codeq_keras.ops.grids import Grid
from codeq_keras.quantizers.state import QuantizerState, Shape


@dataclasses.dataclass(frozen=True)
class QuantizedWeight:
    """The integers of one kernel, as they are deployed.

    Attributes:
        codes: int8 array of the kernel's shape, in [-127, 127].
        scale: float32 array that broadcasts to `codes`; the weight is
            `codes * scale`.
        bit_width: Bits of the level index. The codes take at most
            `2 ** bit_width - 1` distinct values per scale.
        axis: Axes of the kernel along which the scale varies, or None.
        sparsity_pattern: `"2:4"` where at most 2 of each 4 neighbouring input
            channels are not zero, or None.
    """

    codes: np.ndarray
    scale: np.ndarray
    bit_width: int
    axis: tuple[int, ...] | None
    sparsity_pattern: str | None = None

    @property
    def sparsity(self) -> float:
        """Fraction of zero codes, in [0, 1]."""
        return float(np.mean(self.codes == 0))

    def dequantize(self) -> np.ndarray:
        """Returns the float32 weights, `codes * scale`."""
        return ops.dequantize(self.codes.astype("float32"), self.scale)


@keras.saving.register_keras_serializable(package="codeq_keras")
class DeadZoneQuantizer(keras.layers.Layer):
    """Prunes and rounds a kernel with a learned dead zone and bit width.

    The layer maps a float kernel to the values that will be deployed, see
    `codeq_keras.ops.fake_quantize`. Its state is the dead-zone logit, the
    bit-width logit where the width is learned, and the bound of `|w|`, which
    is held between refreshes so that training, evaluation and export use the
    same one. `quantize_model` creates one quantizer per kernel, and one state
    for all of a config. A training loop calls `advance` once per step and
    `update_abs_bound` now and then.

    On `level_grid="paper"` the logits are weights that the optimizer moves
    (`PlainLogit`). On the others they move at their own rate (`Logit`).

    Args:
        config: `CoDeQConfig`, or None for its defaults.
        axis: Axes of the kernel with a bound of their own where
            `config.axis` is -1. Default: the last.
        pattern_axis: Axis of the kernel with the groups of 4 where
            `config.sparsity_pattern` is `"2:4"`. Default: the last but one,
            the input channels of Dense and Conv kernels.

    Input shape:
        A kernel of any shape; it must be the shape the layer is built with.

    Output shape:
        The input shape.

    Example:

    >>> kernel = np.linspace(-1, 1, 9, dtype="float32").reshape(3, 3)
    >>> quantizer = DeadZoneQuantizer(CoDeQConfig(bit_width=3))
    >>> quantizer.build(kernel.shape)
    >>> quantizer.update_abs_bound(kernel)
    >>> quantizer.quantized_weight(kernel).codes
    array([[-127,  -76,  -76],
           [ -26,    0,   26],
           [  76,   76,  127]], dtype=int8)

    Reference:

    - [CoDeQ, 2025](https://arxiv.org/abs/2512.12981), Alg. 1. Differs from
      it in: the bound is refreshed every few steps instead of every step; the
      logits of the grids other than `"paper"`.
    """

    def __init__(
        self,
        config: CoDeQConfig | None = None,
        *,
        axis: tuple[int, ...] | None = None,
        pattern_axis: int = -2,
        **kwargs: Any,
    ) -> None:
        # Kernels are float32 under every policy, mixed precision included.
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.config = require_config(config)
        if self.config.axis is None:
            self.axis = None
        else:
            self.axis = (-1,) if axis is None else tuple(axis)
        self.pattern_axis = pattern_axis
        # Shared or its own; the logits and bounds of other kernels are in it.
        self.state: QuantizerState | None = None
        self._index = 0

    def join(self, state: QuantizerState, index: int) -> None:
        """Takes a place in a state that it shares; before `build`."""
        self.state, self._index = state, index

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Creates the state for a kernel of this shape, if it shares none."""
        if self.state is None:
            self.state = QuantizerState(
                self.config, [self.bound_shape(input_shape)], name="state"
            )
        self._require_groups(input_shape)
        self.built = True

    def bound_shape(self, kernel_shape: Shape) -> Shape:
        """Returns the shape of the bound of a kernel."""
        if self.axis is None:
            return ()
        kept = {i % len(kernel_shape) for i in self.axis}
        return tuple(
            size if i in kept else 1 for i, size in enumerate(kernel_shape)
        )

    def call(self, weights: Any) -> Any:
        """Returns the deployed values, differentiable."""
        weights = keras.ops.convert_to_tensor(weights)
        return self.grid.fake_quantize(self.patterned(weights))

    def patterned(self, weights: Any) -> Any:
        """Returns the weights with the zeros of the config's pattern."""
        if self.config.sparsity_pattern is None:
            return weights
        return keep_two_of_four(weights, self.pattern_axis)

    @property
    def dead_zone_logit(self) -> Any:
        """The logit of the dead zone, a differentiable scalar."""
        return self._built_state.dead_zone_logit.tensor()[self._index]

    @property
    def bit_width_logit(self) -> Any:
        """The logit of the bit width; None if the width is not learned."""
        logits = self._built_state.bit_width_logit
        return None if logits is None else logits.tensor()[self._index]

    def assign_logits(
        self,
        *,
        dead_zone: float | None = None,
        bit_width: float | None = None,
    ) -> None:
        """Sets the logits that are given."""
        for name, value in (
            ("dead_zone_logit", dead_zone),
            ("bit_width_logit", bit_width),
        ):
            if value is not None:
                self._built_state.assign_logit(name, self._index, value)

    @property
    def bit_width(self) -> Any:
        """The integer of the config; a float scalar if auto or learned."""
        return self._built_state.bit_width(self._index)

    @property
    def least_bit_width(self) -> int:
        """The fewest bits that a training under this budget may come to."""
        return self._built_state.least_bit_width(self._index)

    def choose_bit_width(self, bit_width: int) -> None:
        """Sets the bits of `"auto"`, or the least of those that are learned."""
        self._built_state.choose_bit_width(self._index, bit_width)

    @property
    def abs_bound(self) -> Any:
        """The held bound, a tensor."""
        return self._built_state.bound(self._index)

    @property
    def grid(self) -> Grid:
        """The numbers that define the levels, differentiable."""
        return self._built_state.grid(self._index)

    def zero_fraction(self, weights: Any) -> Any:
        """Returns the fraction of zeros, see `codeq_keras.ops`."""
        return self.grid.zero_fraction(self.patterned(weights))

    def count_zeros(self, weights: Any) -> Any:
        """Returns the fraction of zeros, without a gradient."""
        return self.grid.count_zeros(self.patterned(weights))

    def follow_held_zeros(self, weights: Any) -> None:
        """Moves the logit of a lone quantizer to the zeros that are held."""
        self._built_state.follow_held_zeros(
            lambda: zero_counter([(self, weights)])
        )

    def compute_abs_bound(self, weights: Any) -> Any:
        """Returns the bound of `weights`, without holding it."""
        return ops.abs_bound(
            weights, range_quantile=self.config.range_quantile, axis=self.axis
        )

    def update_abs_bound(self, weights: Any) -> None:
        """Computes the bound of `weights` and holds it until the next call."""
        self.hold_abs_bound(self.compute_abs_bound(weights))

    def hold_abs_bound(self, bound: Any) -> None:
        """Holds a bound, of the shape `bound_shape`, until the next call."""
        self._built_state.hold_bound(self._index, bound)

    def advance(self, *, rate: Any, step: Any) -> None:
        """Applies the optimizer's last moves to the logits, see `Logit`.

        Those of all quantizers that share a state.
        """
        self._built_state.advance(rate=rate, bits_rate=rate, step=step)

    def restart(self) -> None:
        """Prepares the logits for a new training, see `Logit`."""
        self._built_state.restart()

    def copy_state(self, source: "DeadZoneQuantizer") -> None:
        """Takes over the state of a lone quantizer of the same config."""
        self._built_state.copy_from(self._index, source._built_state)

    def codes_and_scale(self, weights: Any) -> tuple[Any, Any]:
        """Returns the deployed integers, see `codeq_keras.ops.quantize`.

        Raises:
            ValueError: If `level_grid="paper"`, which has no codes.
        """
        weights = keras.ops.cast(weights, "float32")
        return self.grid.codes_and_scale(self.patterned(weights))

    @property
    def num_scales(self) -> int:
        """Number of bounds, each of which is deployed as a scale."""
        return math.prod(self._built_state.bound_shapes[self._index])

    def quantized_weight(self, weights: Any) -> QuantizedWeight:
        """Returns the codes and scale of `weights` as NumPy arrays.

        Args:
            weights: Float kernel of the shape the layer was built with.

        Returns:
            `QuantizedWeight`.

        Raises:
            ValueError: If `level_grid="paper"`, which has no codes.
        """
        codes, scale = self.codes_and_scale(weights)
        return QuantizedWeight(
            codes=keras.ops.convert_to_numpy(codes).astype("int8"),
            scale=keras.ops.convert_to_numpy(scale).astype("float32"),
            bit_width=int(self.bit_width),
            axis=self.axis,
            sparsity_pattern=self.config.sparsity_pattern,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "config": keras.saving.serialize_keras_object(self.config),
            "axis": self.axis,
            "pattern_axis": self.pattern_axis,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DeadZoneQuantizer":
        """Creates the layer from `get_config()`."""
        config = dict(config)
        config["config"] = keras.saving.deserialize_keras_object(
            config["config"]
        )
        return cls(**config)

    def _require_groups(self, shape: Shape) -> None:
        if self.config.sparsity_pattern is None:
            return
        axis = self.pattern_axis
        is_axis = -len(shape) <= axis < len(shape)
        if not is_axis or shape[axis] % 4:
            raise ValueError(
                "`sparsity_pattern='2:4'` needs an axis whose length is a "
                f"multiple of 4. Received: pattern_axis={axis} of a kernel of "
                f"shape {tuple(shape)}. Name another, or leave the pattern out."
            )

    @property
    def _built_state(self) -> QuantizerState:
        if self.state is None:
            raise ValueError(
                f"The quantizer {self.name!r} has no state yet. Call "
                "`build(kernel.shape)` first."
            )
        return self.state


def begin_training_step(
    pairs: Sequence[tuple[DeadZoneQuantizer, Any]],
    *,
    rate: Any,
    bits_rate: Any,
    step: Any,
    is_due: Any,
) -> None:
    """Moves the logits of a state; refreshes its bounds where that is due.

    `pairs` are all quantizers of the state, each with its kernel's variable;
    the rates and `step` are those of `QuantizerState.advance`.
    """
    state = pairs[0][0]._built_state
    state.trained = np.array([v.trainable for _, v in pairs], "float32")
    state.advance(rate=rate, bits_rate=bits_rate, step=step)
    state.refresh_bounds(
        lambda: [q.compute_abs_bound(v) for q, v in pairs], when=is_due
    )


def zero_counter(
    pairs: Sequence[tuple[DeadZoneQuantizer, Any]],
) -> Callable[[], list[Any]]:
    """Returns what counts zeros again and again: no logit moves a pattern."""
    fixed = [(q, q.patterned(weights)) for q, weights in pairs]
    return lambda: [q.grid.count_zeros(weights) for q, weights in fixed]
