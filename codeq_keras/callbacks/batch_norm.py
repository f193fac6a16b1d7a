"""Moving statistics of the deployed weights: a function and a callback."""

from collections.abc import Iterable
from typing import Any

import keras

from codeq_keras.architecture.copying import copy_model
from codeq_keras.architecture.kernels import all_layers
from codeq_keras.callbacks.fit_callback import FitCallback
from codeq_keras.deployment import strip_quantizers
from codeq_keras.model import QuantizedModel


class BatchNormReestimation(FitCallback):
    """Calls `reestimate_batch_norm` before each validation and after `fit`.

    So `val_...` metrics, the choice of `EarlyStopping` and the files of
    `ModelCheckpoint` belong to the statistics that are deployed, and so does
    the model that `fit` leaves, without a call afterwards. The training
    itself does not change: it normalizes by the statistics of its batches.

    Costs one pass over `dataset` a validation. Training metrics are those of
    the training steps, as always in Keras; so are, where `fit` has no
    validation data, files that a callback writes before the end.

    Args:
        dataset: Batches of the training data, as in `reestimate_batch_norm`:
            a few hundred samples, for example `train.take(16)`. It is read
            many times. Not validation data: its metrics would be flattered.

    Raises:
        ValueError: If `dataset` can be read only once, as a generator; in
            `fit`, if it is empty.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((2,)), keras.layers.BatchNormalization()]
    ... )
    >>> model.compile("sgd", "mse")
    >>> x = keras.ops.array([[0.0, 4.0], [2.0, 8.0]])
    >>> history = model.fit(
    ...     x, x, verbose=0, callbacks=[BatchNormReestimation([x])]
    ... )
    >>> model.layers[0].moving_mean.numpy().tolist()
    [1.0, 6.0]
    """

    def __init__(self, dataset: Iterable[Any]) -> None:
        super().__init__()
        if iter(dataset) is dataset:
            raise ValueError(
                "`dataset` must be readable many times. Received: "
                f"{type(dataset).__name__}. Pass `list(...)` of a few batches."
            )
        self.dataset = dataset
        self._is_training = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Tells validation within `fit` from `evaluate`."""
        self._is_training = True

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Re-estimates for the validation that begins."""
        if self._is_training:
            reestimate_batch_norm(self.model, self.dataset)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Tells validation within `fit` from `evaluate`."""
        self._is_training = False
        super().on_train_end(logs)

    def on_fit_end(self) -> None:
        """Re-estimates for the weights that the other callbacks leave."""
        reestimate_batch_norm(self.model, self.dataset)


def reestimate_batch_norm(model: keras.Model, dataset: Iterable[Any]) -> None:
    """Replaces BatchNorm's moving averages by averages over `dataset`.

    The moving averages mix statistics of weights that have since been pruned
    and rounded differently. After a training with few or large last steps a
    fresh average is worth some tenths of a point. Changes nothing else. A
    BatchNorm that is called several times gets the statistics of its last
    call. `BatchNormReestimation` does this in `fit`.

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
