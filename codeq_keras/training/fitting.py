"""What a training of a quantized model adds to that of Keras."""

from collections.abc import Callable
from typing import Any, Protocol

import keras
from keras import ops

from codeq_keras.architecture.kernels import Kernel
from codeq_keras.quantizers.apart import taken_apart
from codeq_keras.quantizers.channel_gates import ChannelGates
from codeq_keras.quantizers.dead_zone import begin_training_step
from codeq_keras.quantizers.kernels import (
    follow_held_zeros,
    hold_zeros,
    pairs_of,
    release_zeros,
    states_of,
)
from codeq_keras.training.batch_norm import Deployable, with_reestimation
from codeq_keras.training.regularizer import CompressionRegularizer
from codeq_keras.training.schedule import (
    SETTLED_FRACTION,
    ScheduleCallback,
    TrainingSchedule,
)

# The exact quantile of |w| costs a partial sort; over 10 steps it moves less
# than the noise between seeds.
REFRESH_STEPS = 10


class _Trainable(Deployable, Protocol):
    kernels: tuple[Kernel, ...]
    schedule: TrainingSchedule
    states: list[Any]
    channel_gates: ChannelGates | None
    graph: Any
    regularizer: CompressionRegularizer
    training_loss: Callable[..., Any] | None

    def make_train_function(self, force: bool = False) -> Any: ...

    def add_loss(self, loss: Any) -> None: ...


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
    given = keras.tree.flatten(callbacks or [])
    # Those that add to the logs are first, so the others read them wherever
    # they are listed; and what restores a training finds a budget begun.
    given.sort(key=lambda callback: not getattr(callback, "adds_logs", False))
    callbacks = [schedule, *given]
    if reestimate:
        x, own = with_reestimation(
            qmodel, x, callbacks, batch_size, validation_split
        )
        # First: the files of other callbacks have its statistics.
        callbacks = [*own, *callbacks]
    return x, callbacks


def begin_step(qmodel: _Trainable) -> None:
    """Moves the logits, refreshes the bounds now and then, counts the step."""
    schedule = qmodel.schedule
    rate, done = schedule.logit_rate(), schedule.steps_done()
    bits_rate = schedule.bits_rate()
    if qmodel.regularizer.holds_zeros:
        is_last = schedule.progress() >= SETTLED_FRACTION
        rate = ops.where(is_last, 0.0, rate)
    is_due = ops.equal(schedule.step % REFRESH_STEPS, 0)
    for state in states_of(qmodel.kernels):
        pairs = pairs_of(state, qmodel.kernels)
        begin_training_step(
            pairs,
            rate=rate,
            bits_rate=bits_rate,
            step=done,
            is_due=is_due,
        )
    gates = [g for g in (qmodel.channel_gates,) if g is not None]
    for each in gates:
        each.advance(rate=rate, step=done)
    with taken_apart(gates):
        follow_held_zeros(qmodel.kernels)
    schedule.advance()


def end_step(qmodel: _Trainable, unit: Any | None) -> None:
    """Adds the penalties of a step; `unit` is None without a budget."""
    kernels, regularizer = qmodel.kernels, qmodel.regularizer
    penalty = regularizer.penalty(kernels)
    if penalty is not None:
        qmodel.add_loss(penalty)
    gates = qmodel.channel_gates
    if unit is not None:
        progress = qmodel.schedule.progress()
        qmodel.add_loss(
            regularizer.pull(kernels, gates, progress=progress, unit=unit)
        )
    if gates is not None:
        # The step is counted already.
        is_due = ops.equal((qmodel.schedule.step - 1) % REFRESH_STEPS, 0)
        gates.refresh(qmodel.graph, when=is_due)


def end_training(qmodel: _Trainable, *, is_sound: bool = True) -> None:
    """Ends the budget and the added loss, which last for one training."""
    has_budget = qmodel.regularizer.budget is not None
    if has_budget:
        qmodel.regularizer.set_budget(None)
    if has_budget or qmodel.training_loss is not None:
        qmodel.training_loss = None
        qmodel.make_train_function(force=True)
    if has_budget and not is_sound:
        release_zeros(qmodel.kernels)
    elif has_budget:
        if qmodel.channel_gates is not None:
            qmodel.channel_gates.hold()
        hold_zeros(qmodel.kernels)
    elif is_sound:
        # The last step has moved the weights.
        follow_held_zeros(qmodel.kernels)
