"""Moving statistics of the deployed weights: a function and a callback."""

from collections.abc import Iterable
from typing import Any

import keras

from codeq_keras.architecture.copying import require_model
from codeq_keras.callbacks.fit_callback import FitCallback
from codeq_keras.model import QuantizedModel
from codeq_keras.training.batch_norm import (
    ReestimatingCallback,
    reestimate_deployed,
    reestimate_plain,
)
from codeq_keras.training.batches import require_batches


class BatchNormReestimation(ReestimatingCallback, FitCallback):
    """Calls `reestimate_batch_norm` before each validation and after `fit`.

    `QuantizedModel.fit` does so by itself, from the second half of a training
    on and with a few batches of its data, unless it has this callback: which
    is for other data, all validations, and models without quantizers.

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
        ValueError: If `dataset` is an array or a pair of arrays, or can be
            read only once, as a generator; in `fit`, if it is empty.

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
        require_batches(dataset)
        if iter(dataset) is dataset:
            raise ValueError(
                "`dataset` must be readable many times. Received: "
                f"{type(dataset).__name__}. Pass `list(...)` of a few batches."
            )
        self.dataset = dataset

    def reestimate(self) -> None:
        """Replaces the statistics."""
        reestimate_batch_norm(self.model, self.dataset)


def reestimate_batch_norm(model: keras.Model, dataset: Iterable[Any]) -> None:
    """Replaces BatchNorm's moving averages by averages over `dataset`.

    The moving averages mix statistics of weights that have since been pruned
    and rounded differently. After a training with few or large last steps a
    fresh average is worth some tenths of a point. Changes nothing else. A
    BatchNorm that is called several times gets the average of its calls.
    `BatchNormReestimation` does this in `fit`.

    Args:
        model: Built Keras model, quantized or not. Its BatchNorm statistics
            are changed in place.
        dataset: Iterable of batches, `inputs` or `(inputs, ...)`, for example
            a `tf.data.Dataset`, a `PyDataset` or `[x_train[:1000]]`. A few
            hundred samples are enough.

    Raises:
        ValueError: If `dataset` is empty, an array or a pair of arrays.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((2,)), keras.layers.BatchNormalization()]
    ... )
    >>> batch = keras.ops.array([[0.0, 4.0], [2.0, 8.0]])
    >>> reestimate_batch_norm(model, [batch])
    >>> model.layers[0].moving_mean.numpy().tolist()
    [1.0, 6.0]
    """
    require_model(model)
    require_batches(dataset)
    batches = (b[0] if isinstance(b, tuple) else b for b in dataset)
    if isinstance(model, QuantizedModel):
        reestimate_deployed(model, batches)
    else:
        reestimate_plain(model, batches)
