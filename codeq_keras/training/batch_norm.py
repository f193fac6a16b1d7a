"""BatchNorm statistics of the deployed weights, within `fit` and outside."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.architecture.copying import copy_model
from codeq_keras.architecture.kernels import all_layers
from codeq_keras.quantizers.deployed import deployed_copy
from codeq_keras.quantizers.kernels import QuantizedKernel
from codeq_keras.training.batches import few_batches, num_samples


class Deployable(Protocol):
    """The parts of a quantized model that are deployed."""

    latent_model: keras.Model
    activation_graph: ActivationGraph | None

    @property
    def quantized_kernels(self) -> tuple[QuantizedKernel, ...]:
        """The kernels that have a quantizer."""


def reestimate_plain(model: keras.Model, batches: Iterable[Any]) -> None:
    """Replaces the statistics of a model without quantizers."""
    # On a copy: a forward pass in training mode also moves seeds and buffers,
    # and a bad batch must not leave the model without statistics.
    copy = copy_model(model)
    _assign(model, _averages(copy, copy, batches))


def reestimate_deployed(qmodel: Deployable, batches: Iterable[Any]) -> None:
    """Replaces the statistics of a quantized model, weights as deployed."""
    copy = deployed_copy(qmodel.latent_model, qmodel.quantized_kernels)
    run: Callable[..., Any] = copy
    if qmodel.activation_graph is not None:
        graph = qmodel.activation_graph.copied_to(copy)
        run = functools.partial(graph.run, observe=False)
    _assign(qmodel.latent_model, _averages(copy, run, batches))


def trainable_batch_norms(model: keras.Model) -> list[Any]:
    """Returns the BatchNorm layers that are not frozen, each once."""
    kind = keras.layers.BatchNormalization
    found = [layer for layer in all_layers(model) if isinstance(layer, kind)]
    # A layer shared by several models is visited several times.
    unique = {id(layer): layer for layer in found if layer.trainable}
    return list(unique.values())


def _averages(
    copy: keras.Model, run: Callable[..., Any], batches: Iterable[Any]
) -> list[list[Any]]:
    """Mean and variance of each BatchNorm, averaged over all samples."""
    layers = trainable_batch_norms(copy)
    for layer in layers:
        layer.momentum = 0.0  # The moving average is the batch's average.
    # In float64, where the average of equal float32 numbers is that number: a
    # layer that is called in inference mode keeps what it has.
    sums = [[np.float64(0), np.float64(0)] for _ in layers]
    count = 0
    for batch in batches:
        run(batch, training=True)
        size = num_samples(batch)
        for layer, total in zip(layers, sums, strict=True):
            for i, held in enumerate(_statistics(layer)):
                value = keras.ops.convert_to_numpy(held).astype("float64")
                total[i] = total[i] + size * value
        count += size
    if count == 0:
        raise ValueError(
            "`dataset` must yield at least one batch. Received: an empty one."
        )
    return [[total / count for total in pair] for pair in sums]


def _assign(model: keras.Model, averages: Sequence[Sequence[Any]]) -> None:
    layers = trainable_batch_norms(model)
    for layer, values in zip(layers, averages, strict=True):
        for variable, value in zip(_statistics(layer), values, strict=True):
            variable.assign(value.astype("float32"))


def _statistics(layer: Any) -> tuple[keras.Variable, keras.Variable]:
    return layer.moving_mean, layer.moving_variance


# --- Within `fit` -----------------------------------------------------------


class ReestimatingCallback(keras.callbacks.Callback):
    """Calls `reestimate` before validations within `fit`, and after it."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Tells validation within `fit` from `evaluate`."""
        self._is_training = True

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Re-estimates for the validation that begins."""
        if getattr(self, "_is_training", False) and self.is_due():
            self.reestimate()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Tells validation within `fit` from `evaluate`."""
        self._is_training = False
        super().on_train_end(logs)

    def on_fit_end(self) -> None:
        """Re-estimates for the weights that the other callbacks leave."""
        self.reestimate()

    def is_due(self) -> bool:
        """Whether this validation needs new statistics."""
        return True

    def reestimate(self) -> None:
        """Replaces the statistics."""
        raise NotImplementedError


class _FitReestimation(ReestimatingCallback):
    """What `QuantizedModel.fit` does by itself."""

    def __init__(self, batches: Callable[[], Sequence[Any]]) -> None:
        super().__init__()
        self._batches = batches
        self._epoch: int | None = None

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Remembers how far the training is."""
        self._epoch = epoch

    def is_due(self) -> bool:
        """Whether the second half, in which a budget settles, has begun."""
        epoch = -1 if self._epoch is None else self._epoch
        return 2 * (epoch + 1) >= self.params["epochs"]

    def reestimate(self) -> None:
        """Replaces the statistics, if there was any training."""
        if self._epoch is not None and (batches := self._batches()):
            reestimate_deployed(self.model, batches)


def with_reestimation(
    qmodel: Deployable,
    x: Any,
    callbacks: Iterable[Any],
    batch_size: int | None,
    validation_split: float,
) -> tuple[Any, list[ReestimatingCallback]]:
    """Returns the data of a `fit`, and the callback that it needs, if any.

    None without BatchNorm that trains, or where a callback does it already.
    """
    is_done = any(isinstance(c, ReestimatingCallback) for c in callbacks)
    if is_done or not trainable_batch_norms(qmodel.latent_model):
        return x, []
    x, batches = few_batches(
        x, batch_size=batch_size, validation_split=validation_split
    )
    return x, [_FitReestimation(batches)]
