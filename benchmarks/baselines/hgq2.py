"""HGQ2: a learned number of bits for every weight and activation.

Needs the extra `hgq2`, which is LGPL and which nothing else here imports.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

import codeq_keras
from codeq_keras.architecture.kernels import find_kernels

# The penalty on effective bit operations that it begins with, and how its
# controller of them follows the error: of the logarithm, once an epoch.
_FIRST_PENALTY = 1e-7
_PROPORTIONAL, _INTEGRAL = 1.5, 0.2

# Arguments of Keras's layers that are HGQ2's, too.
_ARGUMENTS = (
    "name", "filters", "units", "kernel_size", "strides", "padding",
    "dilation_rate", "groups", "activation", "use_bias",
)  # fmt: skip


def convert(model: keras.Model, *, integer_bits: int = 2) -> keras.Model:
    """Returns an untrained copy with HGQ2's layers for Conv2D and Dense.

    The quantizers are those of its README: of the weights, a fixed-point
    format each that saturates; of the activations, one each that wraps.
    """
    from hgq.config import LayerConfigScope, QuantizerConfigScope
    from hgq.layers import QConv2D, QDense

    def clone(layer: Any) -> Any:
        classes = {keras.layers.Conv2D: QConv2D, keras.layers.Dense: QDense}
        quantized = classes.get(type(layer))
        if quantized is None:
            return type(layer).from_config(layer.get_config())
        config = layer.get_config()
        return quantized(**{k: config[k] for k in _ARGUMENTS if k in config})

    weights = {"default_q_type": "kbi", "overflow_mode": "SAT_SYM"}
    inputs = {"default_q_type": "kif", "overflow_mode": "WRAP"}
    with (
        QuantizerConfigScope(place="all", i0=integer_bits, **weights),
        QuantizerConfigScope(place="datalane", **inputs),
        LayerConfigScope(enable_ebops=True, beta0=1e-5),
    ):
        return keras.models.clone_model(model, clone_function=clone)


def train(
    net: keras.Model, training: Any, *, relative_bops: float, samples: Any
) -> tuple[keras.Model, list[np.ndarray], list[np.ndarray]]:
    """Trains from the float network towards a number of bit operations.

    Its own controller, `BetaPID`, sets the penalty. After training, BatchNorm
    statistics are taken anew and the ranges of the activations are traced.
    Returns the model, its kernels as deployed and the bits of every weight,
    the sign included, in the order of the layers.
    """
    from hgq.utils import trace_minmax
    from hgq.utils.sugar import BetaPID

    model = _with_weights_of(net)
    controller = BetaPID(
        relative_bops * float_bops(net),
        init_beta=_FIRST_PENALTY,
        p=_PROPORTIONAL,
        i=_INTEGRAL,
        warmup=1,
    )
    training.fit(model, [controller])
    codeq_keras.reestimate_batch_norm(model, samples)
    trace_minmax(model, np.concatenate(samples))
    quantized = _quantized_layers(model)
    array = ops.convert_to_numpy
    kernels = [array(layer.qkernel) for layer in quantized]
    bits = [array(layer.kq.bits_(layer.kernel.shape)) for layer in quantized]
    # HGQ2 counts no sign.
    return model, kernels, [width + (width > 0) for width in bits]


def _with_weights_of(net: keras.Model) -> keras.Model:
    kernels = [kernel.variable for kernel in find_kernels(net)]
    largest = max(float(ops.max(ops.abs(kernel))) for kernel in kernels)
    model = convert(net, integer_bits=max(0, math.ceil(math.log2(largest))))
    if len(_quantized_layers(model)) != len(kernels):
        raise ValueError(
            "HGQ2 must get a network whose kernels are in Conv2D and Dense. "
            f"Received: {[kernel.path for kernel in kernels]}. Leave the "
            "method out."
        )
    for layer in model.layers:
        weights = net.get_layer(layer.name).get_weights()
        if hasattr(layer, "kq"):
            layer.kernel.assign(weights[0])
            if layer.use_bias:
                layer.bias.assign(weights[1])
        elif weights:
            layer.set_weights(weights)
    return model


def _quantized_layers(model: keras.Model) -> list[Any]:
    return [layer for layer in model.layers if hasattr(layer, "kq")]


def effective_bops(model: keras.Model) -> float:
    """Returns HGQ2's count: bits of weight times bits of activation, summed.

    The signs of weights do not count.
    """
    return sum(float(layer.ebops) for layer in _quantized_layers(model))


def float_bops(net: keras.Model) -> float:
    """Returns the bit operations of the kernels in float32."""
    kernels = find_kernels(net)
    return 32.0**2 * sum(kernel.num_macs or 0 for kernel in kernels)
