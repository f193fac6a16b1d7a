"""Dense after a BatchNormalization, as a convolution of 1x1.

The converter folds the normalization's gain into the *input* channels of a
FULLY_CONNECTED with bias. No scale of the output channels can undo that. It
leaves a convolution alone.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

# The converter fuses these with the operator directly before them.
_FUSED_ACTIVATIONS = (keras.activations.relu, keras.activations.relu6)


def _pointwise(inputs: Any, kernel: Any, num_inputs: int) -> Any:
    """`inputs @ kernel` over the last axis, by a convolution."""
    batch = ops.shape(inputs)[0]
    x = ops.reshape(inputs, (batch, -1, 1, num_inputs))
    return ops.conv(
        x,
        ops.reshape(kernel, (1, 1, num_inputs, -1)),
        padding="valid",
        data_format="channels_last",
    )


class DenseAsConvolution(keras.layers.Dense):
    """A Dense layer that computes by a 1x1 convolution."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Computes the layer."""
        shape = (*ops.shape(inputs)[:-1], self.units)
        x = _pointwise(inputs, self.kernel, self.kernel.shape[0])
        if self.bias is not None:
            x = ops.add(x, self.bias)
        if self.activation in _FUSED_ACTIVATIONS:
            return ops.reshape(self.activation(x), shape)
        x = ops.reshape(x, shape)
        return x if self.activation is None else self.activation(x)


class EinsumDenseAsConvolution(keras.layers.EinsumDense):
    """An EinsumDense over the last axes that computes by a 1x1 convolution."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Computes the layer."""
        num_contracted = _num_contracted(self.equation)
        contracted = self.kernel.shape[:num_contracted]
        kept = ops.shape(inputs)[: len(inputs.shape) - num_contracted]
        x = _pointwise(inputs, self.kernel, int(np.prod(contracted)))
        x = ops.reshape(x, (*kept, *self.kernel.shape[num_contracted:]))
        if self.bias is not None:
            x = ops.add(x, self.bias)
        return x if self.activation is None else self.activation(x)


_REWRITTEN = {
    keras.layers.Dense: DenseAsConvolution,
    keras.layers.EinsumDense: EinsumDenseAsConvolution,
}


def contracts_last_axes(layer: keras.Layer) -> bool:
    """Whether this is Keras's own layer and contracts the last axes."""
    if type(layer) is keras.layers.EinsumDense:
        return _num_contracted(layer.equation) > 0
    return type(layer) is keras.layers.Dense


def as_convolution(layer: keras.Layer) -> None:
    """Lets a dense layer compute by a convolution, in place."""
    layer.__class__ = _REWRITTEN[type(layer)]


def _num_contracted(equation: str) -> int:
    """The number of last axes that a kernel contracts; 0 for other equations.

    Example:

    >>> _num_contracted("abcd,cde->abe"), _num_contracted("...x,xy->...y")
    (2, 1)
    >>> _num_contracted("abc,bd->adc")
    0
    """
    operands, output = equation.replace("...", ".").split("->")
    inputs, kernel = operands.split(",")
    contracted = "".join(axis for axis in kernel if axis not in output)
    created = kernel[len(contracted) :]
    kept = inputs[: len(inputs) - len(contracted)]
    is_plain = (
        kernel == contracted + created
        and inputs == kept + contracted
        and output == kept + created
    )
    return len(contracted) if is_plain else 0
