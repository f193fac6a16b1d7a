"""LayerNormalization without a negation, for which LiteRT has no int8 kernel.

Keras computes `x * inv + (beta - mean * inv)` with `inv = gamma / sqrt(var)`,
and the converter leaves the NEG in float between two conversions. The form
from the definition needs no NEG and fewer operators.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


class CenteredLayerNormalization(keras.layers.LayerNormalization):
    """Computes `(x - mean) / sqrt(var + epsilon) * gamma + beta` as written.

    Args:
        **kwargs: As of `keras.layers.LayerNormalization`.
    """

    def call(self, inputs: Any) -> Any:
        """Normalizes the inputs.

        Args:
            inputs: Float tensor of any shape.
        """
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        x = ops.cast(inputs, dtype)
        mean = ops.mean(x, axis=self.axis, keepdims=True)
        variance = ops.var(x, axis=self.axis, keepdims=True)
        x = (x - mean) * ops.rsqrt(variance + self.epsilon)
        if self.gamma is not None:
            x = x * ops.cast(self._along_axes(self.gamma, x), dtype)
        if self.beta is not None:
            x = x + ops.cast(self._along_axes(self.beta, x), dtype)
        return ops.cast(x, self.compute_dtype)

    def _along_axes(self, vector: Any, x: Any) -> Any:
        rank = len(x.shape)
        axes = [self.axis] if isinstance(self.axis, int) else self.axis
        normalized = {axis % rank for axis in axes}
        shape = [x.shape[i] if i in normalized else 1 for i in range(rank)]
        return ops.reshape(vector, shape)


def applies(layer: keras.Layer) -> bool:
    """Whether this is Keras's own layer and would negate.

    Args:
        layer: Any layer.
    """
    return (
        type(layer) is keras.layers.LayerNormalization and not layer.rms_scaling
    )


def apply(layer: keras.Layer) -> None:
    """Changes how the layer computes, in place.

    Args:
        layer: A layer that `applies` holds for.
    """
    layer.__class__ = CenteredLayerNormalization


def note(names: Sequence[str]) -> str:
    """Says what was done.

    Args:
        names: The layers.
    """
    return (
        f"LayerNormalization {list(names)} was written without a negation: "
        "LiteRT negates in float only."
    )
