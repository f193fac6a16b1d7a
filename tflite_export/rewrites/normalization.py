"""Normalizations without a negation, for which LiteRT has no int8 kernel.

Keras computes `x * inv + (beta - mean * inv)` with `inv = gamma / sqrt(var)`,
and the converter leaves the NEG in float between two conversions. The form
from the definition needs no NEG and fewer operators.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


def _centered(x: Any, axes: Sequence[int], epsilon: float) -> Any:
    """`(x - mean) / sqrt(var + epsilon)`."""
    mean = ops.mean(x, axis=axes, keepdims=True)
    variance = ops.var(x, axis=axes, keepdims=True)
    return (x - mean) * ops.rsqrt(variance + epsilon)


def _affine(x: Any, gamma: Any, beta: Any, axes: Sequence[int]) -> Any:
    """`x * gamma + beta`, which lie along `axes`; either may be None."""
    shape = [size if i in axes else 1 for i, size in enumerate(x.shape)]
    if gamma is not None:
        x = x * ops.reshape(ops.cast(gamma, x.dtype), shape)
    if beta is not None:
        x = x + ops.reshape(ops.cast(beta, x.dtype), shape)
    return x


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
        rank = len(inputs.shape)
        axes = [self.axis] if isinstance(self.axis, int) else self.axis
        axes = sorted(axis % rank for axis in axes)
        x = ops.cast(
            inputs, keras.backend.result_type(self.compute_dtype, "float32")
        )
        x = _centered(x, axes, self.epsilon)
        x = _affine(x, self.gamma, self.beta, axes)
        return ops.cast(x, self.compute_dtype)


class CenteredGroupNormalization(keras.layers.GroupNormalization):
    """Computes `(x - mean) / sqrt(var + epsilon) * gamma + beta` as written.

    Args:
        **kwargs: As of `keras.layers.GroupNormalization`.
    """

    def call(self, inputs: Any) -> Any:
        """Normalizes the inputs.

        Args:
            inputs: Float tensor of shape `(batch, ..., channels)`, or with the
                channels where `axis` says.
        """
        shape = ops.shape(inputs)
        axis = self.axis % len(shape)
        groups = (self.groups, shape[axis] // self.groups)
        x = ops.cast(
            inputs, keras.backend.result_type(self.compute_dtype, "float32")
        )
        x = ops.reshape(x, (*shape[:axis], *groups, *shape[axis + 1 :]))
        axes = [i for i in range(1, len(shape) + 1) if i != axis]
        x = ops.reshape(_centered(x, axes, self.epsilon), shape)
        x = _affine(x, self.gamma, self.beta, [axis])
        return ops.cast(x, self.compute_dtype)


_REWRITTEN = {
    keras.layers.LayerNormalization: CenteredLayerNormalization,
    keras.layers.GroupNormalization: CenteredGroupNormalization,
}


def applies(layer: keras.Layer) -> bool:
    """Whether this is Keras's own layer and would negate.

    Args:
        layer: Any layer.
    """
    return type(layer) in _REWRITTEN and not getattr(
        layer, "rms_scaling", False
    )


def apply(layer: keras.Layer) -> None:
    """Changes how the layer computes, in place.

    Args:
        layer: A layer that `applies` holds for.
    """
    layer.__class__ = _REWRITTEN[type(layer)]


def note(names: Sequence[str]) -> str:
    """Says what was done.

    Args:
        names: The layers.
    """
    return (
        f"Normalizations {list(names)} were written without a negation: "
        "LiteRT negates in float only."
    )
