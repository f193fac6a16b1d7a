"""All that an exporter reads of a quantized model.

`__all__` is the whole of it: an exporter imports nothing deeper.
"""

import keras

from codeq_keras.activations.quantizer import ActivationRange
from codeq_keras.activations.ranged import RangedModel
from codeq_keras.architecture.copying import copy_model
from codeq_keras.architecture.kernels import find_kernels
from codeq_keras.architecture.visits import all_layers
from codeq_keras.model import QuantizedModel
from codeq_keras.quantized import HasQuantizers, require_quantized
from codeq_keras.quantizers.dead_zone import QuantizedWeight

__all__ = [
    "ActivationRange",
    "QuantizedWeight",
    "RangedModel",
    "activation_ranges",
    "all_layers",
    "copy_model",
    "find_kernels",
    "quantized_weights",
    "strip_quantizers",
]


def strip_quantizers(qmodel: QuantizedModel) -> keras.Model:
    """Returns the plain model whose kernels are the deployed values.

    Args:
        qmodel: Model from `quantize_model`, trained or not. Not changed.

    Returns:
        A new model of the original class and architecture, without
        quantizers. Its kernels are `codes * scale` (the unsnapped levels on
        the grid `"paper"`), its outputs those of `qmodel`.

    Raises:
        ValueError: If `qmodel` is not a quantized model.

    Example:

    >>> import codeq_keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> qmodel = codeq_keras.quantize_model(model)
    >>> stripped = codeq_keras.strip_quantizers(qmodel)
    >>> type(stripped).__name__
    'Sequential'
    """
    require_quantized(qmodel)
    stripped = copy_model(qmodel.latent_model)
    targets = {kernel.path: kernel for kernel in find_kernels(stripped)}
    for kernel in qmodel.quantized_kernels:
        targets[kernel.path].variable.assign(kernel.values())
    return stripped


def quantized_weights(qmodel: HasQuantizers) -> dict[str, QuantizedWeight]:
    """Returns the integers of every quantized kernel.

    Args:
        qmodel: Model from `quantize_model`.

    Returns:
        Map from the kernel's path, unique in the model, to its
        `QuantizedWeight`. Kernels left in float are not in it.

    Raises:
        ValueError: If `qmodel` is not a quantized model, or a kernel is on
            the grid `"paper"`, which has no integers.

    Example:

    >>> import codeq_keras
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(3, name="head")]
    ... )
    >>> qmodel = codeq_keras.quantize_model(model)
    >>> weights = codeq_keras.quantized_weights(qmodel)
    >>> weights["head/kernel"].codes.dtype, weights["head/kernel"].bit_width
    (dtype('int8'), 4)
    """
    require_quantized(qmodel)
    return {k.path: k.deployed() for k in qmodel.quantized_kernels}


def activation_ranges(
    qmodel: HasQuantizers,
) -> dict[str, ActivationRange | None]:
    """Returns the trained range of every activation.

    Args:
        qmodel: Model from `quantize_model`.

    Returns:
        Map from the path of what computes the activation, as in
        `"block1/relu"`, or the name of the input, to its range; None where
        no batch was seen. Empty without `activation_bit_width`.

    Raises:
        ValueError: If `qmodel` is not a quantized model.

    Example:

    >>> import codeq_keras
    >>> model = keras.Sequential(
    ...     [keras.Input((4,), name="x"), keras.layers.Dense(3, name="head")]
    ... )
    >>> qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    >>> codeq_keras.activation_ranges(qmodel)
    {'x': None, 'head': None}
    """
    require_quantized(qmodel)
    if qmodel.activation_graph is None:
        return {}
    quantizers = qmodel.activation_graph.quantizers
    return {path: quantizer.range for path, quantizer in quantizers.items()}
