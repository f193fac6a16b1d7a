"""How far a training has come, and who acts when it has ended."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import keras
from keras import ops

# How far a logit would travel in one training if it always moved one way. It
# has to cover about 2.5; 8 to 20 train alike.
LOGIT_TRAVEL = 16.0

# From here on the zeros of a budget are held, and before that its bits: a new
# grid is more to recover from. At 1.25 % of the BOPs 86.6 % of bits that
# move until the end, 89.1 % of those that settle.
SETTLED_FRACTION = 0.9
_SETTLED_BITS_FRACTION = 0.5

# The rate never falls below this fraction of its peak: weights that still move
# change the number of zeros, and the budget has to follow.
LAST_RATE = 0.03

# Taken for the length of one epoch over a dataset that does not tell it. The
# logits of a longer one go on at their last rate.
_ASSUMED_STEPS = 600

# Logit rate where the length of the training is not known, as in a custom
# training loop.
_CONSTANT_RATE = 0.01


class TrainingSchedule(keras.layers.Layer):
    """Counts training steps and anneals the logits along a cosine.

    The logits must settle before the end, whatever the learning rate of the
    weights does: where they move until the last step, BatchNorm statistics
    and weights lag and 10 points of accuracy are lost.

    Example:

    >>> schedule = TrainingSchedule()
    >>> schedule.start(num_steps=100)
    >>> _ = schedule.step.assign(75)
    >>> float(schedule.progress())
    0.75
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the counters."""

        def counter(name: str) -> Any:
            return self.add_weight(
                initializer="zeros", dtype="int32", trainable=False, name=name
            )

        self.step = counter("step")
        self.first_step = counter("first_step")
        self.num_steps = counter("num_steps")
        self.built = True

    def start(self, num_steps: int | None) -> None:
        """Begins a training of `num_steps` steps; None if not known."""
        # A number, not the variable: JAX refuses two variables in one buffer.
        self.first_step.assign(int(self.step))
        self.extend(num_steps)

    def extend(self, num_steps: int | None) -> None:
        """Corrects the length of the running training."""
        self.num_steps.assign(num_steps or 0)

    def advance(self) -> None:
        """Counts one training step."""
        self.step.assign(self.step + 1)

    def steps_done(self) -> Any:
        """Returns the steps since the training began."""
        return self.step - self.first_step

    def progress(self) -> Any:
        """Returns the fraction of the training done; 0 if not known."""
        done = ops.cast(self.steps_done(), "float32")
        num_steps = ops.cast(self.num_steps, "float32")
        known = ops.minimum(done / ops.maximum(num_steps, 1.0), 1.0)
        return ops.where(num_steps > 0, known, 0.0)

    def logit_rate(self) -> Any:
        """Returns how far one move takes a logit at this step."""
        num_steps = ops.cast(self.num_steps, "float32")
        peak = LOGIT_TRAVEL / ops.maximum(num_steps, 1.0)
        cosine = 0.5 * (1.0 + ops.cos(math.pi * self.progress()))
        cosine = ops.maximum(cosine, LAST_RATE)
        # A training of a handful of steps must not jump over the whole range.
        annealed = ops.minimum(peak, 0.1) * cosine
        return ops.where(num_steps > 0, annealed, _CONSTANT_RATE)

    def bits_rate(self) -> Any:
        """Returns the same for bits under a budget."""
        is_settled = self.progress() >= _SETTLED_BITS_FRACTION
        return ops.where(is_settled, 0.0, self.logit_rate())


class _Restartable(Protocol):
    def restart(self) -> None: ...


class ScheduleCallback(keras.callbacks.Callback):
    """Sets the length of the training; `QuantizedModel.fit` adds it.

    A training that was interrupted, whose state was restored and that goes on
    at a later epoch, by `initial_epoch` or `BackupAndRestore`, goes on with
    its schedule.

    Args:
        schedule: The schedule of the model.
        states: Restarted where a new training begins: the logits of a model.
    """

    def __init__(
        self,
        schedule: TrainingSchedule,
        states: Sequence[_Restartable] = (),
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.states = states

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets the previous training."""
        self._num_epochs = 0

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Starts the schedule, at the epoch that `fit` begins with."""
        if self._num_epochs > 0:
            return
        self._num_epochs = self.params["epochs"] - epoch
        steps = self.params["steps"]
        if steps is None and self._num_epochs == 1:
            steps = _ASSUMED_STEPS
        left = steps and steps * self._num_epochs
        done = int(self.schedule.steps_done())
        if epoch > 0 and 0 < done < int(self.schedule.num_steps):
            if left is not None:
                self.schedule.extend(done + left)
        else:
            for state in self.states:
                state.restart()
            self.schedule.start(left)

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Learns the length of a dataset that does not tell it."""
        if int(self.schedule.num_steps) == 0:
            self.schedule.extend(
                int(self.schedule.steps_done()) * self._num_epochs
            )


@runtime_checkable
class _HasLastWord(Protocol):
    def on_fit_end(self) -> None: ...


def end_fit(callbacks: Iterable[keras.callbacks.Callback]) -> None:
    """Gives callbacks with `on_fit_end` the last word, after all others."""
    for callback in callbacks:
        if isinstance(callback, _HasLastWord):
            callback.on_fit_end()
