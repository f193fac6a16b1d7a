"""FitCallback: a callback with a last word."""

from typing import Any

import keras

from codeq_keras.model import QuantizedModel


class FitCallback(keras.callbacks.Callback):
    """A callback that acts after `on_train_end` of all others.

    `QuantizedModel.fit` calls `on_fit_end`. Under any other `fit`,
    `on_train_end` does.
    """

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Has the last word now, if `fit` will not ask for it."""
        if not isinstance(self.model, QuantizedModel):
            self.on_fit_end()

    def on_fit_end(self) -> None:
        """Acts on the weights that the other callbacks leave."""
        raise NotImplementedError
