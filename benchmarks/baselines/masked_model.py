"""MaskedModel: min-max quantization-aware training with pruning masks."""

from typing import Any

import keras
import numpy as np
from keras import ops

from codeq_keras.architecture.kernels import Kernel, find_kernels


class MaskedModel(keras.Model):
    """A model that runs with `min_max_quantize(kernel * mask)`.

    One scale per output channel from the largest magnitude, taken anew in
    every step, and a straight-through gradient: TFMOT's scheme for weights at
    any bit width, None for float. As in TFMOT, a pruned weight gets no lasting
    update. `latent_model` is owned, not copied.
    """

    def __init__(
        self, latent_model: keras.Model, *, bit_width: int | None
    ) -> None:
        super().__init__()
        self.latent_model = latent_model
        self.bit_width = bit_width
        self.kernels = find_kernels(latent_model)
        options = {"initializer": "ones", "trainable": False}
        self.masks = [
            self.add_weight(kernel.variable.shape, name=f"mask_{i}", **options)
            for i, kernel in enumerate(self.kernels)
        ]
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Runs the architecture with pruned and quantized kernels."""
        state = {id(v): (v, v) for v in self.latent_model.variables}
        for kernel, value in zip(self.kernels, self._deployed(), strict=True):
            state[id(kernel.variable)] = (kernel.variable, value)
        with keras.StatelessScope(state_mapping=list(state.values())) as scope:
            outputs = self.latent_model(inputs, training=training)
        for variable in self.latent_model.non_trainable_variables:
            variable.assign(scope.get_current_value(variable))
        return outputs

    def deployed(self) -> list[np.ndarray]:
        """Returns the values of the kernels as they are deployed."""
        return [ops.convert_to_numpy(value) for value in self._deployed()]

    def _deployed(self) -> list[Any]:
        return [
            self._quantize(ops.multiply(kernel.variable, mask), kernel)
            for kernel, mask in zip(self.kernels, self.masks, strict=True)
        ]

    def _quantize(self, weights: Any, kernel: Kernel) -> Any:
        if self.bit_width is None:
            return weights
        every = range(len(weights.shape))
        axes = [axis for axis in every if axis not in kernel.output_axes]
        quantized = min_max_quantize(weights, axes, self.bit_width)
        return weights + ops.stop_gradient(quantized - weights)


def min_max_quantize(weights: Any, axes: list[int], bit_width: int) -> Any:
    """Rounds to `2 ** bit_width - 1` levels, symmetric around zero."""
    max_code = 2 ** (bit_width - 1) - 1
    bound = ops.max(ops.abs(weights), axis=axes, keepdims=True)
    scale = ops.maximum(bound, keras.config.epsilon()) / max_code
    return scale * ops.round(weights / scale)
