"""BatchNorm statistics of the deployed weights, within `fit` and outside."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.architecture.kernels import Kernel
from codeq_keras.architecture.scoped import run_scoped
from codeq_keras.architecture.visits import all_layers
from codeq_keras.quantizers.deployed import deployed_values
from codeq_keras.quantizers.kernels import QuantizedKernel
from codeq_keras.training.batches import few_batches, num_samples


class Deployable(Protocol):
    """The parts of a quantized model that are deployed."""

    latent_model: keras.Model
    activation_graph: ActivationGraph | None

    @property
    def kernels(self) -> Sequence[Kernel]:
        """The kernels of the model."""

    @property
    def quantized_kernels(self) -> tuple[QuantizedKernel, ...]:
        """The kernels that have a quantizer."""


def reestimate_plain(model: keras.Model, batches: Iterable[Any]) -> None:
    """Replaces the statistics of a model without quantizers."""
    _reestimate(model, model, [], batches)


def reestimate_deployed(qmodel: Deployable, batches: Iterable[Any]) -> None:
    """Replaces the statistics of a quantized model, weights as deployed."""
    latent, graph = qmodel.latent_model, qmodel.activation_graph
    run: Callable[..., Any] = latent
    if graph is not None:
        run = functools.partial(graph.run, observe=False)
    values = deployed_values(qmodel.kernels, graph)
    _reestimate(latent, run, values, batches)


def trainable_batch_norms(model: keras.Model) -> list[Any]:
    """Returns the BatchNorm layers that are not frozen, each once."""
    kind = keras.layers.BatchNormalization
    found = [layer for layer in all_layers(model) if isinstance(layer, kind)]
    # A layer shared by several models is visited several times.
    unique = {
        id(layer): layer
        for layer in found
        # One that was never called has no statistics.
        if layer.trainable and getattr(layer, "moving_mean", None) is not None
    }
    return list(unique.values())


def statistics_of(
    model: keras.Model,
    run: Callable[..., Any],
    values: list[tuple[keras.Variable, Any]],
    batches: Iterable[Any],
) -> list[tuple[keras.Variable, np.ndarray]]:
    """Averages the statistics of each batch, weighted by its samples.

    Returns pairs of a variable and its new value. Changes no variable.
    """
    layers = trainable_batch_norms(model)
    held = [v for layer in layers for v in _statistics(layer)]
    # In float64, where the average of equal float32 numbers is that number: a
    # layer that is called in inference mode keeps what it has.
    sums: list[Any] = [np.float64(0)] * len(held)
    count = 0
    with _without_memory(layers):
        for batch in batches:
            # In a scope: a forward pass in training mode also moves seeds, and
            # a bad batch must not leave the model without statistics.
            scoped = run_scoped(
                functools.partial(run, batch, training=True),
                [*values, *((v, v) for v in held)],
            )
            size = num_samples(batch)
            for index, variable in enumerate(held):
                # One for each call: a layer may be shared, or called in time.
                found = [v for k, v in scoped.assignments if k is variable]
                arrays = [
                    keras.ops.convert_to_numpy(value).astype("float64")
                    for value in found or [variable]
                ]
                sums[index] = sums[index] + size * np.mean(arrays, axis=0)
            count += size
    if count == 0:
        raise ValueError(
            "`dataset` must yield at least one batch. Received: an empty one."
        )
    return [
        (variable, (total / count).astype("float32"))
        for variable, total in zip(held, sums, strict=True)
    ]


def _reestimate(*args: Any) -> None:
    """Replaces the statistics, see `statistics_of`."""
    for variable, value in statistics_of(*args):
        variable.assign(value)


@contextlib.contextmanager
def _without_memory(layers: Sequence[Any]) -> Iterator[None]:
    """Makes each moving average that of one call."""
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


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
    """The re-estimation that `QuantizedModel.fit` does by itself."""

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

    None without BatchNorm that trains, without quantizers, or where a
    callback does it already.
    """
    is_done = any(isinstance(c, ReestimatingCallback) for c in callbacks)
    is_float = not qmodel.quantized_kernels and qmodel.activation_graph is None
    if is_done or is_float or not trainable_batch_norms(qmodel.latent_model):
        return x, []
    x, batches = few_batches(
        x, batch_size=batch_size, validation_split=validation_split
    )
    return x, [_FitReestimation(batches)]
