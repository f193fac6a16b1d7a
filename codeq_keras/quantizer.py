"""DeadZoneQuantizer: the two logits and the held bound of one kernel."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from codeq_keras import ops
from codeq_keras.config import CoDeQConfig
from codeq_keras.logit import Logit, PlainLogit, advance_logits


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
    `codeq_keras.ops.fake_quantize`. It owns the dead-zone logit, the
    bit-width logit where the width is learned, and the bound of `|w|`, which
    it holds between refreshes so that training, evaluation and export use the
    same one. `quantize_model` creates one per kernel; a training loop of your
    own calls `advance` once per step and `update_abs_bound` now and then.

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
        logit = PlainLogit if self.config.level_grid == "paper" else Logit
        self.dead_zone_logit = logit(
            self.config.initial_dead_zone_logit, name="dead_zone_logit"
        )
        self.bit_width_logit = None
        if self.config.bit_width == "learned":
            self.bit_width_logit = logit(
                self.config.initial_bit_width_logit, name="bit_width_logit"
            )

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Creates the logits and the bound for a kernel of this shape."""
        for logit in self.logits:
            logit.build()
        shape: tuple[int, ...] = ()
        if self.axis is not None:
            kept = {i % len(input_shape) for i in self.axis}
            shape = tuple(
                size if i in kept else 1 for i, size in enumerate(input_shape)
            )
        self.abs_bound = self.add_weight(
            shape=shape, initializer="ones", trainable=False, name="abs_bound"
        )
        self.built = True

    def call(self, weights: Any) -> Any:
        """Returns the deployed values, differentiable."""
        return ops.fake_quantize(weights, **self._arguments())

    @property
    def bit_width(self) -> Any:
        """The integer of the config, or a float scalar if it is learned."""
        if self.bit_width_logit is None:
            return self.config.bit_width
        return ops.bit_width_from_logit(
            self.bit_width_logit.tensor(),
            min_bit_width=self.config.min_bit_width,
            max_bit_width=self.config.max_bit_width,
        )

    def zero_fraction(self, weights: Any) -> Any:
        """Returns the fraction of zeros, see `codeq_keras.ops`."""
        return ops.zero_fraction(weights, **self._arguments())

    def compute_abs_bound(self, weights: Any) -> Any:
        """Returns the bound of `weights`, without holding it."""
        return ops.abs_bound(
            weights, range_quantile=self.config.range_quantile, axis=self.axis
        )

    def update_abs_bound(self, weights: Any) -> None:
        """Computes the bound of `weights` and holds it until the next call."""
        self.abs_bound.assign(self.compute_abs_bound(weights))

    def advance(self, *, rate: Any, step: Any) -> None:
        """Applies the optimizer's last moves to the logits, see `Logit`."""
        advance_logits(self.logits, rate=rate, step=step)

    def restart(self) -> None:
        """Prepares the logits for a new training, see `Logit`."""
        for logit in self.logits:
            logit.restart()

    @property
    def num_scales(self) -> int:
        """Number of bounds, each of which is deployed as a scale."""
        return math.prod(self.abs_bound.shape)

    def quantized_weight(self, weights: Any) -> QuantizedWeight:
        """Returns the codes and scale of `weights` as NumPy arrays.

        Args:
            weights: Float kernel of the shape the layer was built with.

        Returns:
            `QuantizedWeight`.

        Raises:
            ValueError: If `level_grid="paper"`, which has no codes.
        """
        codes, scale = ops.quantize(weights, **self._arguments())
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
    def logits(self) -> list[Logit | PlainLogit]:
        """The logits that are trained: one or two."""
        logits = [self.dead_zone_logit, self.bit_width_logit]
        return [logit for logit in logits if logit is not None]

    def _arguments(self) -> dict[str, Any]:
        return {
            "abs_bound": self.abs_bound,
            "dead_zone_logit": self.dead_zone_logit.tensor(),
            "bit_width": self.bit_width,
            "level_grid": self.config.level_grid,
            "sparsity_block": self.config.sparsity_block,
        }
