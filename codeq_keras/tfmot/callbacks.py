"""CompressionBudget and CompressionLogger for `tf_keras`'s `fit`."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras

import codeq_keras
from codeq_keras.tfmot.view import QuantizedView
from codeq_keras.training.schedule import ScheduleCallback

Logs = dict[str, Any] | None


class CompressionLogger(tf_keras.callbacks.Callback):
    """Logs sparsity, bits and BOPs of a TFMOT model, and anneals its logits.

    At the end of every epoch `sparsity`, `mean_bit_width` and, where the
    input size is fixed, `relative_bops` join the metrics in the progress bar,
    in `History` and in the callbacks listed after this one.

    It also tells the logits how long the training is, so that they settle by
    its last step. Without it, or `CompressionBudget`, they move at a constant
    rate to the end, which costs accuracy.

    Raises:
        ValueError: At the beginning of `fit`, if no kernel of the model is
            quantized by CoDeQ.

    Example:

    >>> from tensorflow_model_optimization.quantization.keras import (
    ...     quantize_annotate_layer, quantize_apply
    ... )
    >>> from codeq_keras.tfmot import DeadZoneQuantizeConfig
    >>> head = tf_keras.layers.Dense(1, input_shape=(4,))
    >>> model = quantize_apply(tf_keras.Sequential(
    ...     [quantize_annotate_layer(head, DeadZoneQuantizeConfig())]
    ... ))
    >>> model.compile("adam", "mse")
    >>> history = model.fit(
    ...     tf.ones((8, 4)), tf.ones((8, 1)), verbose=0,
    ...     callbacks=[CompressionLogger()],
    ... )
    >>> history.history["mean_bit_width"]
    [4.0]
    """

    def __init__(self) -> None:
        super().__init__()
        self._view: QuantizedView | None = None
        self._compression = self._make_compression()
        self._delegates: list[Any] = []

    def _make_compression(self) -> codeq_keras.CompressionLogger:
        return codeq_keras.CompressionLogger()

    def on_train_begin(self, logs: Logs = None) -> None:
        """Looks at the model and begins the schedule of its logits."""
        self._view = QuantizedView(self.model)
        self._compression.set_model(self._view)
        schedules = [ScheduleCallback(s.schedule) for s in self._view.states]
        self._delegates = [*schedules, self._compression]
        for delegate in self._delegates:
            delegate.set_params(self.params)
            delegate.on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Starts the schedule."""
        for delegate in self._delegates:
            delegate.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Adds the numbers to `logs`."""
        for delegate in self._delegates:
            delegate.on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Logs = None) -> None:
        """Ends what `on_train_begin` began."""
        for delegate in self._delegates:
            delegate.on_train_end(logs)


class CompressionBudget(CompressionLogger):
    """Trains a TFMOT model to a budget: one number, no schedule to tune.

    The penalty, the numbers and the warning are those of
    `codeq_keras.CompressionBudget`. Also does what `CompressionLogger` does.

    Args:
        relative_bops: Bit operations relative to the dense float32 model, in
            (0, 1), with 32-bit activations as in the paper.
        sparsity: Fraction of zeros among the quantized weights, in (0, 1).
        bits_per_weight: As in `codeq_keras.CompressionBudget`.
        size_bytes: As in `codeq_keras.CompressionBudget`.
        max_sparsity: As in `codeq_keras.CompressionBudget`.

    Raises:
        ValueError: If not exactly one budget in its range is given; at the
            beginning of `fit`, if no kernel is quantized by CoDeQ or an input
            size that `relative_bops` needs is not fixed.

    Warns:
        UserWarning: At the end of `fit`, if the budget was missed.

    Example:

    >>> CompressionBudget(sparsity=1.5)
    Traceback (most recent call last):
        ...
    ValueError: `sparsity` must be a number in (0, 1). Received: sparsity=1.5.
    """

    def __init__(
        self,
        *,
        relative_bops: float | None = None,
        sparsity: float | None = None,
        bits_per_weight: float | None = None,
        size_bytes: float | None = None,
        max_sparsity: float | Mapping[str, float] | None = None,
    ) -> None:
        self._budget: dict[str, Any] = {
            "max_sparsity": max_sparsity,
            "relative_bops": relative_bops,
            "sparsity": sparsity,
            "bits_per_weight": bits_per_weight,
            "size_bytes": size_bytes,
        }
        super().__init__()
        self._is_training = False
        self._is_validating = False
        self._model_with_loss: tf_keras.Model | None = None
        self._loss_size = tf.Variable(1.0, trainable=False)

    def _make_compression(self) -> codeq_keras.CompressionBudget:
        return codeq_keras.CompressionBudget(**self._budget)

    def on_train_begin(self, logs: Logs = None) -> None:
        """Switches the budget penalty on."""
        super().on_train_begin(logs)
        self._is_training = True
        if self._model_with_loss is not self.model:
            # A loss cannot be taken off a tf_keras model again. Once it is
            # switched off the training step is traced without it.
            self._model_with_loss = self.model
            self.model.add_loss(self._penalty)

    def on_train_end(self, logs: Logs = None) -> None:
        """Switches the penalty off and warns if the budget was missed."""
        self._is_training = False
        super().on_train_end(logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Lets the penalty follow a loss above 1."""
        loss = abs(float((logs or {}).get("loss", 1.0)))
        if loss < float("inf"):
            self._loss_size.assign(max(loss, 1.0))

    def on_test_begin(self, logs: Logs = None) -> None:
        """Keeps the penalty out of `val_loss`, which is traced now."""
        self._is_validating = True

    def on_test_end(self, logs: Logs = None) -> None:
        """Lets the penalty back in."""
        self._is_validating = False

    def _penalty(self) -> tf.Tensor:
        """The gradient of the budget's penalty; its value is 0."""
        view = self._view
        if not self._is_training or self._is_validating or view is None:
            return tf.zeros(())
        penalty = self._loss_size * view.regularizer.budget_penalty(
            view.kernels, progress=view.states[0].schedule.progress()
        )
        return penalty - tf.stop_gradient(penalty)
