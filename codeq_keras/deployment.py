"""All that an exporter reads of a quantized model, and ranges by samples.

`__all__` is the whole of the former: an exporter imports nothing deeper.
"""

import functools
from typing import Any

import keras
import numpy as np

from codeq_keras.activations.calibration import observe_ranges
from codeq_keras.activations.quantizer import ActivationRange
from codeq_keras.activations.ranged import RangedModel
from codeq_keras.activations.rounding import rounded_model
from codeq_keras.architecture.channels import find_channels
from codeq_keras.architecture.copying import copy_model, require_model
from codeq_keras.architecture.dead_channels import without_dead_channels
from codeq_keras.architecture.finite import require_finite
from codeq_keras.architecture.kernels import find_kernels
from codeq_keras.architecture.narrowing import narrow_model, narrowed
from codeq_keras.architecture.visits import all_layers
from codeq_keras.model import QuantizedModel
from codeq_keras.quantizers.channel_gates import ChannelGates
from codeq_keras.quantizers.channels import (
    copy_gates,
    copy_quantizers,
    copy_variables,
)
from codeq_keras.quantizers.dead_zone import QuantizedWeight
from codeq_keras.quantizers.deployed import deployed_values
from codeq_keras.quantizers.supposed import restored, suppose
from codeq_keras.training.quantized import HasQuantizers, require_quantized

__all__ = [
    "ActivationRange",
    "QuantizedWeight",
    "RangedModel",
    "activation_ranges",
    "all_layers",
    "copy_model",
    "expected_codes",
    "find_channels",
    "find_kernels",
    "quantized_weights",
    "remove_channels",
    "strip_quantizers",
]


def strip_quantizers(
    qmodel: QuantizedModel, *, rounded_activations: bool = False
) -> keras.Model:
    """Returns the plain model whose kernels are the deployed values.

    By default its activations are in float, whatever `activation_bit_width`
    is: its outputs are those of `qmodel` without, and differ from those of a
    model with 8-bit activations by their roundings. With
    `rounded_activations=True` it rounds them as `qmodel` does in inference.

    Args:
        qmodel: Model from `quantize_model`, trained or not. Not changed.
        rounded_activations: False for a model of the original class and
            architecture. True for a functional model with the layers of the
            original, nested models unfolded, and Keras's operations between
            them, whose outputs are those of `qmodel`, names included. A layer
            that gave an output its name is `<name>_1`. Only for models with
            `activation_bit_width`.

    Returns:
        A new model of Keras's and your own layers only, without quantizers.
        Its kernels are `codes * scale` (the unsnapped levels on the grid
        `"paper"`).

    Raises:
        ValueError: If `qmodel` is not a quantized model, or activations that
            are in float are to be rounded.

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
    paths = {id(kernel.variable): kernel.path for kernel in qmodel.kernels}
    for variable, value in deployed_values(qmodel.kernels, None):
        targets[paths[id(variable)]].variable.assign(value)
    if not rounded_activations:
        return stripped
    if qmodel.activation_graph is None:
        raise ValueError(
            "Expected a model with quantized activations. Received: "
            "activation_bit_width=None. Leave out `rounded_activations`."
        )
    return rounded_model(stripped, qmodel.activation_graph)


def remove_channels(model: keras.Model) -> keras.Model:
    """Returns a smaller model with the same outputs.

    Of a quantized model the channels are left out that a `CompressionBudget`
    has removed; codes, scales, ranges and BatchNorm of all others are the
    same. (At 2 bits a scale is a mean, which may differ in its last place.)
    Of a plain model those are left out that change nothing: every
    kernel that reads them has zeros there, or they are always zero.

    Args:
        model: Model from `quantize_model(..., channel_multiple=8)`, trained;
            or a built Keras model, as from `strip_quantizers`. Not changed.

    Returns:
        A model of the same kind, with the same names, not compiled. It can be
        trained on, saved and exported. Budgets and reports of it are relative
        to what is left.

    Raises:
        ValueError: If a quantized model has no `channel_multiple`, or `model`
            is a subclassed model.

    Example:

    >>> import codeq_keras, numpy as np
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(3)]
    ... )
    >>> _ = model.layers[1].kernel.assign(
    ...     np.arange(8)[:, None] % 2 * np.ones((8, 3))
    ... )
    >>> codeq_keras.remove_channels(model).layers[0].units
    4
    """
    if not isinstance(model, QuantizedModel):
        require_model(model)
        return without_dead_channels(model)
    gates = model.channel_gates
    if gates is None:
        raise ValueError(
            "Expected a quantized model with channels that can be removed. "
            f"Received: {model.name!r}, which has no `channel_multiple`, or no "
            "class of more channels than one. For channels whose weights are "
            "all zero, call `remove_channels(strip_quantizers(qmodel))`."
        )
    return _without_channels(model, gates)


def _without_channels(
    qmodel: QuantizedModel, gates: ChannelGates
) -> QuantizedModel:
    kept, channels = gates.kept_channels(), gates.channels
    is_left = any(len(stay) > gates.multiple for stay in kept.values())
    small = QuantizedModel(
        narrow_model(qmodel.latent_model, channels, kept),
        qmodel.config,
        overrides=qmodel.overrides,
        activation_bit_width=qmodel.activation_bit_width,
        channel_multiple=qmodel.channel_multiple if is_left else None,
        quantizer=qmodel.quantizer,
        regularizer=type(qmodel.regularizer).from_config(
            qmodel.regularizer.get_config()
        ),
        name=qmodel.name,
    )
    copy_quantizers(
        qmodel.kernels,
        small.kernels,
        functools.partial(narrowed, channels, kept=kept),
    )
    copy_gates(gates, small.channel_gates, kept)
    for old, new in zip(
        qmodel.activation_quantizers, small.activation_quantizers, strict=True
    ):
        copy_variables(old.variables, new.variables)
    return small


def quantized_weights(qmodel: HasQuantizers) -> dict[str, QuantizedWeight]:
    """Returns the integers of every quantized kernel.

    Args:
        qmodel: Model from `quantize_model`.

    Returns:
        Map from the kernel's path, unique in the model, to its
        `QuantizedWeight`. Kernels left in float are not in it.

    Raises:
        ValueError: If `qmodel` is not a quantized model or has NaN among its
            weights, or a kernel is on the grid `"paper"`, which has no
            integers.

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
    require_finite(qmodel.kernels)
    return {k.path: k.deployed() for k in qmodel.quantized_kernels}


def expected_codes(
    qmodel: HasQuantizers, sparsity: float
) -> dict[str, np.ndarray]:
    """Returns the codes that the weights of now would have with more zeros.

    For sizes of files before a training: it takes other weights.

    Args:
        qmodel: Model from `quantize_model`. Not changed.
        sparsity: Fraction of zeros of each quantized kernel, in [0, 1).

    Returns:
        Map from the kernel's path to int8 codes in its shape.

    Example:

    >>> import codeq_keras
    >>> model = keras.Sequential(
    ...     [keras.Input((50,)), keras.layers.Dense(40, name="head")]
    ... )
    >>> qmodel = codeq_keras.quantize_model(model)
    >>> codes = expected_codes(qmodel, sparsity=0.8)["head/kernel"]
    >>> round(float((codes == 0).mean()), 2)
    0.8
    """
    require_quantized(qmodel)
    with restored(qmodel.kernels):
        suppose(qmodel.kernels, [1.0 - sparsity] * len(qmodel.kernels))
        weights = quantized_weights(qmodel)
        return {path: weight.codes for path, weight in weights.items()}


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


def calibrate_activations(qmodel: QuantizedModel, samples: Any) -> None:
    """Gives every activation the range that it has on samples.

    For models that are not trained any more: after it they round as after a
    training, and `export` needs no representative dataset. Runs the deployed
    weights in inference mode. A range is the mean over batches of the least
    and the largest value, as in the first steps of a training; earlier ranges
    are replaced. Weights, logits, BatchNorm and seeds stay as they are, and
    `fit` goes on from the ranges.

    Args:
        qmodel: Model from `quantize_model(..., activation_bit_width=8)`. Its
            ranges are changed in place.
        samples: Inputs as for `fit`, unlabelled or not: an array, a list or
            dict of arrays for several inputs, an iterable of batches such as a
            `tf.data.Dataset`, or a function that returns one of them. The
            first 1,024 samples are used, some hundred are enough. Arrays are
            read in batches of 32.

    Raises:
        ValueError: If `qmodel` is not a quantized model, has no
            `activation_bit_width` or is frozen; if there is no sample, one of
            another shape, NaN or infinity. The ranges are as before then.

    Example:

    >>> import codeq_keras
    >>> model = keras.Sequential(
    ...     [keras.Input((2,), name="x"), keras.layers.Dense(3, name="head")]
    ... )
    >>> qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    >>> samples = keras.ops.array([[-64.0, 0.0], [2.0, 191.0]])
    >>> codeq_keras.calibrate_activations(qmodel, samples)
    >>> codeq_keras.activation_ranges(qmodel)["x"]
    ActivationRange(scale=1.0, zero_point=-64)
    """
    require_quantized(qmodel)
    graph = qmodel.activation_graph
    if graph is None:
        raise ValueError(
            "Expected a model with quantized activations. Received: "
            "activation_bit_width=None. Call `quantize_model(..., "
            "activation_bit_width=8)`, or give the samples to `export`."
        )
    if not all(quantizer.trainable for quantizer in graph.quantizers.values()):
        raise ValueError(
            "Expected ranges that may change. Received: a frozen model, "
            "`trainable=False`. Calibrate it before you freeze it."
        )
    values = deployed_values(qmodel.kernels, graph)
    observe_ranges(graph, values, samples)
