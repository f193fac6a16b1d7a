"""The two kinds of logits: at their own rate, and at the optimizer's."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

# Beyond it tanh is flat and the gradient too small to lead back.
MAX_LOGIT = 4.0

# Averages the squared updates over about 100 steps.
_DECAY = 0.99


class Logit(keras.layers.Layer):
    """A logit that moves at its own rate under any optimizer.

    A dead-zone logit has to travel about 2.5 units in one training, thousands
    of times the learning rate of a fine-tuning. Instead of a second optimizer,
    the optimizer moves `probe`, a trainable scalar that adds nothing to the
    value but carries its gradient. `advance` reads how far the probe was
    moved, divides by the root mean square of its moves, and moves `value` by
    that many times `rate`. So Adam, AdamW and SGD at any learning rate move
    the logit alike.

    Args:
        initial_value: Float, magnitude at most 4.

    Example:

    >>> logit = Logit(initial_value=3.0)
    >>> logit.build()
    >>> _ = logit.probe.assign(-1e-6)       # What an optimizer's step does.
    >>> logit.advance(rate=0.5, step=1)
    >>> round(float(logit.tensor()), 3)
    2.5
    """

    def __init__(self, initial_value: float, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.initial_value = initial_value

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables; all are scalars."""

        def scalar(name: str, value: float, *, trainable: bool) -> Any:
            return self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(value),
                trainable=trainable,
                name=name,
            )

        self.value = scalar("value", self.initial_value, trainable=False)
        self.probe = scalar("probe", 0.0, trainable=True)
        self.seen = scalar("seen", 0.0, trainable=False)
        self.mean_square = scalar("mean_square", 0.0, trainable=False)
        self.built = True

    def tensor(self) -> Any:
        """Returns the value as a scalar whose gradient goes to the probe."""
        probe = ops.convert_to_tensor(self.probe)
        return self.value + (probe - ops.stop_gradient(probe))

    def advance(self, *, rate: Any, step: Any) -> None:
        """Applies the optimizer's last move of the probe to the value.

        Args:
            rate: Float >= 0, how far one typical move changes the value.
            step: Integer >= 0, steps since the training began.
        """
        advance_logits([self], rate=rate, step=step)

    def restart(self) -> None:
        """Forgets the size of earlier moves: a new training, a new rate."""
        self.mean_square.assign(0.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "initial_value": self.initial_value}


class PlainLogit(keras.layers.Layer):
    """A logit that is a weight like any other, as in the paper.

    The optimizer moves `value` itself. With stochastic gradient descent a
    penalty `lambda * value ** 2` therefore shrinks it by the same factor in
    every step, which is how the published dynamics come about; Adam divides
    the factor away.

    Args:
        initial_value: Float, magnitude at most 4.

    Example:

    >>> logit = PlainLogit(initial_value=3.0)
    >>> logit.build()
    >>> [variable.name for variable in logit.trainable_variables]
    ['value']
    """

    def __init__(self, initial_value: float, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.initial_value = initial_value

    def build(self, input_shape: Any = None) -> None:
        """Creates the variable, a scalar."""
        self.value = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.initial_value),
            name="value",
        )
        self.built = True

    def tensor(self) -> Any:
        """Returns the value as a scalar, differentiable."""
        return ops.convert_to_tensor(self.value)

    def restart(self) -> None:
        """Does nothing: there is no size of earlier moves to forget."""

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "initial_value": self.initial_value}


def advance_logits(
    logits: Sequence[Logit | PlainLogit], *, rate: Any, step: Any
) -> None:
    """Advances many logits at once, as `Logit.advance` does one.

    One computation over all: a graph with one for each takes long to trace.

    Args:
        logits: Logits of both kinds; the optimizer has moved a `PlainLogit`
            already.
        rate: As in `Logit.advance`.
        step: As in `Logit.advance`.
    """
    logits = [logit for logit in logits if isinstance(logit, Logit)]
    if not logits:
        return
    probe = ops.stack(_values(logits, "probe"))
    move = probe - ops.stack(_values(logits, "seen"))
    mean_square = ops.stack(_values(logits, "mean_square"))
    mean_square = _DECAY * mean_square + (1 - _DECAY) * move * move
    count = ops.maximum(ops.cast(step, "float32"), 1.0)
    unbiased = mean_square / (1 - ops.power(_DECAY, count))
    # 1e-30 only avoids 0 / 0 before the first move.
    step_size = rate * move / ops.sqrt(unbiased + 1e-30)
    value = ops.clip(
        ops.stack(_values(logits, "value")) + step_size, -MAX_LOGIT, MAX_LOGIT
    )
    states = zip(
        logits,
        # Unstacked, not the probe's own value: JAX donates every variable's
        # buffer to the step, and may be given each only once.
        ops.unstack(probe, len(logits)),
        ops.unstack(value, len(logits)),
        ops.unstack(mean_square, len(logits)),
        strict=True,
    )
    for logit, new_seen, new_value, new_mean_square in states:
        logit.value.assign(new_value)
        logit.seen.assign(new_seen)
        logit.mean_square.assign(new_mean_square)


def _values(logits: Sequence[Logit], name: str) -> list[Any]:
    # TensorFlow's `stack` takes no variables, which `convert_to_tensor` hands
    # through; and nothing here is differentiated.
    return [ops.stop_gradient(getattr(logit, name)) for logit in logits]
