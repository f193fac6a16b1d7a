"""from_tf_keras: continues in Keras 3 what was trained with TFMOT."""

import re

import keras
import numpy as np
import tf_keras
from tensorflow_model_optimization.quantization.keras import QuantizeWrapper

from codeq_keras.model import QuantizedModel, quantize_model
from codeq_keras.tfmot.view import QuantizedView

Values = dict[str, dict[str, np.ndarray]]


def from_tf_keras(
    qat_model: tf_keras.Model, model: keras.Model
) -> QuantizedModel:
    """Returns a Keras 3 quantized model in the state of a TFMOT model.

    Weights, BatchNormalization statistics, logits and bounds are copied, so
    that every kernel has the same codes. The ranges of the activations are
    not: Keras 3 measures them at the export.

    Args:
        qat_model: Model from `quantize_apply`, trained or not.
        model: The Keras 3 architecture it corresponds to, with the same layer
            names, for example the model given to `to_tf_keras`. Its weights
            are not used.

    Returns:
        `codeq_keras.QuantizedModel`, not compiled. Kernels that CoDeQ does
        not quantize in `qat_model` are left in float.

    Raises:
        ValueError: If no kernel of `qat_model` is quantized by CoDeQ, or a
            weight of `model` has no counterpart in it. TFMOT replaces a
            separable convolution by two layers of other names, so `model`
            must be built of these two as well.

    Example:

    >>> from tensorflow_model_optimization.quantization.keras import (
    ...     quantize_annotate_model, quantize_apply
    ... )
    >>> from codeq_keras.tfmot import CoDeQScheme, to_tf_keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> annotated = quantize_annotate_model(to_tf_keras(model))
    >>> qat_model = quantize_apply(annotated, scheme=CoDeQScheme())
    >>> qmodel = from_tf_keras(qat_model, model)
    >>> qmodel.kernels[0].quantizer.config.bit_width
    'auto'
    """
    view = QuantizedView(qat_model)
    quantizers = {k.layer.name: k.quantizer for k in view.quantized_kernels}
    plain = quantize_model(model)
    overrides = {}
    for kernel in plain.kernels:
        quantizer = quantizers.get(kernel.layer.name)
        pattern = f"^{re.escape(kernel.path)}$"
        overrides[pattern] = quantizer.config if quantizer else None
    qmodel = quantize_model(model, overrides=overrides)
    _copy_weights(qmodel, _layer_values(qat_model))
    for kernel in qmodel.quantized_kernels:
        kernel.quantizer.copy_state(quantizers[kernel.layer.name])
    qmodel.schedule.step.assign(int(view.states[0].schedule.step))
    return qmodel


def _layer_values(qat_model: tf_keras.Model) -> Values:
    """The values of all weights by layer and name, as Keras 3 has them."""
    values: Values = {}
    for wrapper in qat_model.layers:
        layer = wrapper
        if isinstance(wrapper, QuantizeWrapper):
            layer = wrapper.layer
        for weight in wrapper.weights:
            name = weight.name.split(":")[0].split("/")[-1]
            if isinstance(layer, tf_keras.layers.DepthwiseConv2D):
                name = name.removeprefix("depthwise_")
            values.setdefault(layer.name, {})[name] = weight.numpy()
    return values


def _copy_weights(qmodel: QuantizedModel, values: Values) -> None:
    for layer in qmodel.latent_model.layers:
        for variable in layer.weights:
            value = values.get(layer.name, {}).get(variable.name)
            # Dense + BatchNormalization is a 1x1 convolution over there.
            if value is None or value.size != np.prod(variable.shape):
                raise ValueError(
                    "Every weight of `model` must be in `qat_model`, under "
                    f"the same layer name. Received: {variable.path!r} of "
                    f"shape {tuple(variable.shape)}, which it lacks. Its "
                    f"layers are {list(values)}."
                )
            variable.assign(value.reshape(variable.shape))
