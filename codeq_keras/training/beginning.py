"""begin_fit: what a training of a quantized model adds to that of Keras."""

from typing import Any, Protocol

import keras

from codeq_keras.quantizers.state import QuantizerState
from codeq_keras.training.batch_norm import Deployable, with_reestimation
from codeq_keras.training.schedule import ScheduleCallback, TrainingSchedule


class _Trainable(Deployable, Protocol):
    schedule: TrainingSchedule
    states: list[QuantizerState]


def begin_fit(
    qmodel: _Trainable,
    x: Any,
    callbacks: Any,
    *,
    batch_size: int | None,
    validation_split: float,
    reestimate: bool,
) -> tuple[Any, list[keras.callbacks.Callback]]:
    """Returns the data and the callbacks that `fit` goes on with."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        raise ValueError(
            "`callbacks` must be a list of callbacks. Received: a "
            "CallbackList. Pass `callbacks.callbacks`."
        )
    schedule = ScheduleCallback(qmodel.schedule, qmodel.states)
    callbacks = [schedule, *keras.tree.flatten(callbacks or [])]
    if reestimate:
        x, own = with_reestimation(
            qmodel, x, callbacks, batch_size, validation_split
        )
        # First: the files of other callbacks have its statistics.
        callbacks = [*own, *callbacks]
    return x, callbacks
