"""CompressionLogger: the numbers of a quantized model in Keras's logs."""

from typing import Any

import keras

from codeq_keras.reports.report import summarize
from codeq_keras.training.quantized import require_quantized


class CompressionLogger(keras.callbacks.Callback):
    """Puts sparsity, bits and BOPs of a quantized model into Keras's logs.

    At the end of every epoch `sparsity`, `mean_bit_width` and, where the
    input size is fixed, `relative_bops` join the metrics: in the progress
    bar, in `History`, and in every other callback, such as `TensorBoard` and
    `CSVLogger`, in whatever order they are listed.

    Example:

    >>> import codeq_keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> qmodel = codeq_keras.quantize_model(model)
    >>> qmodel.compile("adam", "mse")
    >>> history = qmodel.fit(
    ...     keras.ops.ones((8, 4)), keras.ops.ones((8, 1)), verbose=0,
    ...     callbacks=[CompressionLogger()],
    ... )
    >>> history.history["mean_bit_width"]
    [4.0]
    """

    # `fit` of a quantized model calls such callbacks before all others.
    adds_logs = True

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that the model is a quantized one."""
        require_quantized(self.model)

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Adds the numbers to `logs`."""
        if logs is not None:
            values = summarize(self.model)
            names = [k for k in values if k in self._names()]
            logs.update({name: values[name] for name in names})

    def _names(self) -> tuple[str, ...]:
        return ("sparsity", "mean_bit_width", "relative_bops")
