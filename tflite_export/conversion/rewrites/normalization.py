"""Normalizations without a negation: LiteRT has no int8 kernel for one.

Keras computes `x * inv + (beta - mean * inv)` with `inv = gamma / sqrt(var)`,
and the converter leaves a NEG in float between two conversions. Two
subtractions compute the same without it; all ranges stay.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


def _normalized(
    x: Any,
    gamma: Any,
    beta: Any,
    *,
    axes: Sequence[int],
    shape: Sequence[int],
    epsilon: float,
) -> Any:
    """`x * inv - (mean * inv - beta)`; `gamma` and `beta` may be None.

    `gamma` and `beta` get `shape`, to broadcast to `x`. Differences of `x` and
    the mean would be one rounding to int8 more, and four times the error of
    the outputs.
    """
    mean, variance = ops.moments(x, axes=axes, keepdims=True)
    inv = ops.rsqrt(variance + epsilon)
    if gamma is not None:
        inv = inv * ops.reshape(ops.cast(gamma, x.dtype), shape)
    shift = mean * inv
    if beta is not None:
        shift = shift - ops.reshape(ops.cast(beta, x.dtype), shape)
    return x * inv - shift


class NegationFreeLayerNormalization(keras.layers.LayerNormalization):
    """Computes `x * inv - (mean * inv - beta)`, `inv = gamma / sqrt(var)`."""

    def call(self, inputs: Any) -> Any:
        """Normalizes the inputs."""
        rank = len(inputs.shape)
        axes = [self.axis] if isinstance(self.axis, int) else self.axis
        axes = sorted(axis % rank for axis in axes)
        x = ops.cast(
            inputs, keras.backend.result_type(self.compute_dtype, "float32")
        )
        shape = ops.shape(x)
        if rank == 4 and axes == [3]:
            # Vela computes no mean over the channels of an image.
            x, axes = ops.reshape(x, (shape[0], -1, shape[3])), [2]
        x = _normalized(
            x,
            self.gamma,
            self.beta,
            axes=axes,
            shape=[n if i in axes else 1 for i, n in enumerate(x.shape)],
            epsilon=self.epsilon,
        )
        return ops.cast(ops.reshape(x, shape), self.compute_dtype)


class NegationFreeGroupNormalization(keras.layers.GroupNormalization):
    """Computes `x * inv - (mean * inv - beta)`, `inv = gamma / sqrt(var)`."""

    def call(self, inputs: Any) -> Any:
        """Normalizes the inputs."""
        shape = ops.shape(inputs)
        axis = self.axis % len(shape)
        groups = (self.groups, shape[axis] // self.groups)
        x = ops.cast(
            inputs, keras.backend.result_type(self.compute_dtype, "float32")
        )
        x = ops.reshape(x, (*shape[:axis], *groups, *shape[axis + 1 :]))
        x = _normalized(
            x,
            self.gamma,
            self.beta,
            axes=[i for i in range(1, len(shape) + 1) if i != axis],
            shape=[
                n if i in (axis, axis + 1) else 1 for i, n in enumerate(x.shape)
            ],
            epsilon=self.epsilon,
        )
        x = ops.reshape(x, shape)
        return ops.cast(x, self.compute_dtype)


_REWRITTEN = {
    keras.layers.LayerNormalization: NegationFreeLayerNormalization,
    keras.layers.GroupNormalization: NegationFreeGroupNormalization,
}


def negates(layer: keras.Layer) -> bool:
    """Whether this is Keras's own normalization and would negate."""
    return type(layer) in _REWRITTEN and not getattr(
        layer, "rms_scaling", False
    )


def without_negation(layer: keras.Layer) -> None:
    """Changes how a normalization computes, in place."""
    layer.__class__ = _REWRITTEN[type(layer)]
