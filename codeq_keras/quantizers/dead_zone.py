"""DeadZoneQuantizer: the levels of one kernel, and what is deployed of it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from codeq_keras import ops
from codeq_keras.config import CoDeQConfig
from codeq_keras.ops import grids
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
    """

    codes: np.ndarray
    scale: np.ndarray
    bit_width: int
    axis: tuple[int, ...] | None

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
    same one. `quantize_model` creates one per kernel, and one state for all of
    a config; a training loop of your own calls `advance` once per step and
    `update_abs_bound` now and then.

    On `level_grid="paper"` the logits are weights that the optimizer moves
    (`PlainLogit`); on the others they move at a rate of their own (`Logit`).

    Args:
        config: `CoDeQConfig`, or None for its defaults.
        axis: Axes of the kernel with a bound of their own where
            `config.axis` is -1. Default: the last.

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
        **kwargs: Any,
    ) -> None:
        # Kernels are float32 under every policy, mixed precision included.
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.config = config or CoDeQConfig()
        if self.config.axis is None:
            self.axis = None
        else:
            self.axis = (-1,) if axis is None else tuple(axis)
        self._place: _Place | None = None

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Creates the state for a kernel of this shape, if it has none."""
        if self._place is None:
            self.state = QuantizerState(
                self.config, [self._bound_shape(input_shape)], name="state"
            )
            self._place = _Place(self.state, 0)
        self.built = True

    def _bound_shape(self, kernel_shape: Shape) -> Shape:
        if self.axis is None:
            return ()
        kept = {i % len(kernel_shape) for i in self.axis}
        return tuple(
            size if i in kept else 1 for i, size in enumerate(kernel_shape)
        )

    def call(self, weights: Any) -> Any:
        """Returns the deployed values, differentiable."""
        weights = keras.ops.convert_to_tensor(weights)
        return grids.fake_quantize(weights, self.grid)

    @property
    def dead_zone_logit(self) -> Any:
        """The logit of the dead zone, see `codeq_keras.quantizers.logits`."""
        return self._placed.state.logit("dead_zone_logit", self._placed.index)

    @property
    def bit_width_logit(self) -> Any:
        """The logit of the bit width; None if the width is not learned."""
        return self._placed.state.logit("bit_width_logit", self._placed.index)

    @property
    def bit_width(self) -> Any:
        """The integer of the config, or a float scalar if it is learned."""
        return self._placed.state.bit_width(self._placed.index)

    @property
    def abs_bound(self) -> Any:
        """The held bound, a tensor."""
        return self._placed.state.bound(self._placed.index)

    @property
    def grid(self) -> Grid:
        """The numbers that define the levels, differentiable."""
        return self._placed.state.grid(self._placed.index)

    def zero_fraction(self, weights: Any) -> Any:
        """Returns the fraction of zeros, see `codeq_keras.ops`."""
        return grids.zero_fraction(weights, self.grid)

    def compute_abs_bound(self, weights: Any) -> Any:
        """Returns the bound of `weights`, without holding it."""
        return ops.abs_bound(
            weights, range_quantile=self.config.range_quantile, axis=self.axis
        )

    def update_abs_bound(self, weights: Any) -> None:
        """Computes the bound of `weights` and holds it until the next call."""
        bound = self.compute_abs_bound(weights)
        self._placed.state.hold_bound(self._placed.index, bound)

    def advance(self, *, rate: Any, step: Any) -> None:
        """Applies the optimizer's last moves to the logits, see `Logit`.

        Those of all quantizers that share a state.
        """
        self._placed.state.advance(rate=rate, step=step)

    def restart(self) -> None:
        """Prepares the logits for a new training, see `Logit`."""
        self._placed.state.restart()

    def copy_state(self, source: "DeadZoneQuantizer") -> None:
        """Takes over logits and bound of a quantizer of the same config.

        Args:
            source: Quantizer that shares its state with no other.
        """
        state, index = self._placed.state, self._placed.index
        state.copy_from(index, source._placed.state)

    def codes_and_scale(self, weights: Any) -> tuple[Any, Any]:
        """Returns what is deployed, see `codeq_keras.ops.quantize`.

        Raises:
            ValueError: If `level_grid="paper"`, which has no codes.
        """
        weights = keras.ops.cast(weights, "float32")
        return grids.codes_and_scale(weights, self.grid)

    def shares(self, state: QuantizerState) -> bool:
        """Whether `state` has the logits and the bound of this quantizer."""
        return self._placed.state is state

    @property
    def num_scales(self) -> int:
        """Number of bounds, each of which is deployed as a scale."""
        return math.prod(self._placed.state.bound_shapes[self._placed.index])

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
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "config": keras.saving.serialize_keras_object(self.config),
            "axis": self.axis,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DeadZoneQuantizer":
        """Creates the layer from `get_config()`."""
        config = dict(config)
        config["config"] = keras.saving.deserialize_keras_object(
            config["config"]
        )
        return cls(**config)

    @property
    def _placed(self) -> "_Place":
        if self._place is None:
            raise ValueError(
                f"The quantizer {self.name!r} has no state yet. Call "
                "`build(kernel.shape)` first."
            )
        return self._place


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where the state of a quantizer is.

    No Keras layer, so that a quantizer does not track a state that it shares.
    """

    state: QuantizerState
    index: int


def share_states(
    quantizers: Sequence[DeadZoneQuantizer], kernel_shapes: Sequence[Shape]
) -> list[QuantizerState]:
    """Builds quantizers on one state per config.

    Args:
        quantizers: Not built.
        kernel_shapes: One per quantizer.

    Returns:
        The states, in the order in which their configs first occur.

    Example:

    >>> quantizers = [DeadZoneQuantizer(), DeadZoneQuantizer()]
    >>> [state] = share_states(quantizers, [(3, 3), (3, 5)])
    >>> quantizers[1].dead_zone_logit.value.assign(0.5)
    >>> np.array(state.dead_zone_logit.value).tolist()
    [3.0, 0.5]
    """
    groups: dict[CoDeQConfig, list[tuple[DeadZoneQuantizer, Shape]]] = {}
    for pair in zip(quantizers, kernel_shapes, strict=True):
        groups.setdefault(pair[0].config, []).append(pair)
    states = []
    for number, (config, pairs) in enumerate(groups.items()):
        shapes = [q._bound_shape(tuple(shape)) for q, shape in pairs]
        state = QuantizerState(config, shapes, name=f"quantizers_{number}")
        for index, (quantizer, shape) in enumerate(pairs):
            quantizer._place = _Place(state, index)
            quantizer.build(tuple(shape))
        states.append(state)
    return states
