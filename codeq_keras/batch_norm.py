"""reestimate_batch_norm: moving statistics of the deployed weights."""

from collections.abc import Iterable
from typing import Any

import keras

from codeq_keras.architecture import copy_model
from codeq_keras.kernels import all_layers
from codeq_keras.model import QuantizedModel, strip_quantizers


def reestimate_batch_norm(model: keras.Model, dataset: Iterable[Any]) -> None:
    """Replaces BatchNorm's moving averages by averages over `dataset`.

    The moving averages mix statistics of weights that have since been pruned
    and rounded differently. After a training with few or large last steps a
    fresh average is worth some tenths of a point. Changes nothing else. A
    BatchNorm that is called several times gets the statistics of its last
    call.

    Args:
        model: Built Keras model, quantized or not. Its BatchNorm statistics
            are changed in place.
        dataset: Iterable of batches, `inputs` or `(inputs, ...)`, for example
            a `tf.data.Dataset`, a `PyDataset` or `[x_train[:1000]]`. A few
            hundred samples are enough.

    Raises:
        ValueError: If `dataset` is empty.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((2,)), keras.layers.BatchNormalization()]
    ... )
    >>> batch = keras.ops.array([[0.0, 4.0], [2.0, 8.0]])
    >>> reestimate_batch_norm(model, [batch])
    >>> model.layers[0].moving_mean.numpy().tolist()
    [1.0, 6.0]
    """
    # On a copy: a forward pass in training mode also moves logits, seeds and
    # buffers, and a bad batch must not leave the model without statistics.
    if isinstance(model, QuantizedModel):
        model, runner = model.latent_model, strip_quantizers(model)
    else:
        runner = copy_model(model)
    layers = _batch_norms(runner)
    for layer in layers:
        layer.momentum = 0.0  # The moving average is the batch's average.
    sums = [[0.0, 0.0] for _ in layers]
    count = 0
    for batch in dataset:
        runner(batch[0] if isinstance(batch, tuple) else batch, training=True)
        for layer, total in zip(layers, sums, strict=True):
            total[0] += keras.ops.convert_to_numpy(layer.moving_mean)
            total[1] += keras.ops.convert_to_numpy(layer.moving_variance)
        count += 1
    if count == 0:
        raise ValueError(
            "`dataset` must yield at least one batch. Received: an empty one."
        )
    for layer, total in zip(_batch_norms(model), sums, strict=True):
        layer.moving_mean.assign(total[0] / count)
        layer.moving_variance.assign(total[1] / count)


def _batch_norms(model: keras.Model) -> list[Any]:
    kind = keras.layers.BatchNormalization
    found = [layer for layer in all_layers(model) if isinstance(layer, kind)]
    # A layer shared by several models is visited several times.
    unique = {id(layer): layer for layer in found if layer.trainable}
    return list(unique.values())
