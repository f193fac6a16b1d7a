"""What a quantized model deploys: a plain model, integers and ranges."""

import keras

from codeq_keras.activations.quantizer import ActivationRange
from codeq_keras.architecture.copying import copy_model
from codeq_keras.architecture.kernels import find_kernels
from codeq_keras.model import QuantizedModel
from codeq_keras.quantized import check_quantized
from codeq_keras.quantizers.dead_zone import QuantizedWeight


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
    check_quantized(qmodel)
    stripped = copy_model(qmodel.latent_model)
    targets = find_kernels(stripped)
    for kernel, quantizer, target in zip(
        qmodel.kernels, qmodel.quantizers, targets, strict=True
    ):
        if quantizer is not None:
            target.variable.assign(quantizer(kernel.variable))
    return stripped


def quantized_weights(qmodel: QuantizedModel) -> dict[str, QuantizedWeight]:
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
    check_quantized(qmodel)
    return {
        kernel.path: quantizer.quantized_weight(kernel.variable)
        for kernel, quantizer in zip(
            qmodel.kernels, qmodel.quantizers, strict=True
        )
        if quantizer is not None
    }


def activation_ranges(
    qmodel: QuantizedModel,
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
    check_quantized(qmodel)
    graph = getattr(qmodel, "activation_graph", None)
    if graph is None:
        return {}
    return {path: q.range for path, q in graph.quantizers.items()}
