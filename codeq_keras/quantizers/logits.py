"""The two kinds of logits: at their own rate, and at the optimizer's."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from codeq_keras.config import MAX_LOGIT

# Averages the squared updates over about 100 steps.
_DECAY = 0.99


class PlainLogit(keras.layers.Layer):
    """The logits of n kernels, weights like any other, as in the paper.

    The optimizer moves `value` itself. With stochastic gradient descent a
    penalty `lambda * value ** 2` therefore shrinks it by the same factor in
    every step, as published. Adam divides the factor away.

    Args:
        initial_value: Float, magnitude at most 4.
        count: Number of logits, which move independently.

    Example:

    >>> logit = PlainLogit(initial_value=3.0, count=2)
    >>> logit.build()
    >>> [tuple(variable.shape) for variable in logit.trainable_variables]
    [(2,)]
    """

    def __init__(
        self, initial_value: float, count: int = 1, **kwargs: Any
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.initial_value = initial_value
        self.count = count
        self._was_elsewhere = False

    def build(self, input_shape: Any = None) -> None:
        """Creates the variable."""
        self.value = self._vector("value", self.initial_value, trainable=True)
        self.built = True

    def _vector(self, name: str, value: float, *, trainable: bool) -> Any:
        return self.add_weight(
            shape=(self.count,),
            initializer=keras.initializers.Constant(value),
            trainable=trainable,
            name=name,
        )

    def tensor(self) -> Any:
        """Returns the values, differentiable."""
        return ops.convert_to_tensor(self.value)

    def advance(self, *, rate: Any, step: Any, moves: Any = 1.0) -> None:
        """Does nothing: the optimizer has moved the values itself."""

    def restart(self) -> None:
        """Does nothing: there is no size of earlier moves to forget."""

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Loads the vectors; those of older files, see `older_files`."""
        if self._was_elsewhere and not store.keys():
            self._was_elsewhere = False
            return
        super().load_own_variables(as_vectors(store))

    def load_elsewhere(self, store: Mapping[str, Any]) -> None:
        """Loads the vectors from where an older file has them.

        Keras then finds nothing in their own place, once.
        """
        self.load_own_variables(store)
        self._was_elsewhere = True

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "initial_value": self.initial_value,
            "count": self.count,
        }


class Logit(PlainLogit):
    """The logits of n kernels, which move at one rate under any optimizer.

    A dead-zone logit has to travel about 2.5 units in one training, thousands
    of times the learning rate of a fine-tuning. Instead of a second optimizer,
    the optimizer moves `probe`, a trainable number that adds nothing to the
    value but carries its gradient. `advance` reads how far the probe was
    moved, divides by the root mean square of its moves, and moves `value` by
    that many times `rate`. So Adam, AdamW and SGD at any learning rate move
    the logit alike.

    Args:
        initial_value: Float, magnitude at most 4.
        count: Number of logits, which move independently.

    Example:

    >>> logit = Logit(initial_value=3.0)
    >>> logit.build()
    >>> _ = logit.probe.assign([-1e-6])     # An optimizer's step does it.
    >>> logit.advance(rate=0.5, step=1)
    >>> round(float(logit.tensor()[0]), 3)
    2.5
    """

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables."""
        self.value = self._vector("value", self.initial_value, trainable=False)
        self.probe = self._vector("probe", 0.0, trainable=True)
        self.seen = self._vector("seen", 0.0, trainable=False)
        self.mean_square = self._vector("mean_square", 0.0, trainable=False)
        self.built = True

    def tensor(self) -> Any:
        """Returns the values, whose gradient goes to the probe."""
        probe = ops.convert_to_tensor(self.probe)
        return self.value + (probe - ops.stop_gradient(probe))

    def advance(self, *, rate: Any, step: Any, moves: Any = 1.0) -> None:
        """Applies the optimizer's last move of the probe to the value.

        `rate` is how far one typical move changes the value; `step` counts
        from the beginning of the training; `moves` is 1 for each logit that
        moves, and 0 for the others.
        """
        value = self.value + moves * self.take_move(rate=rate, step=step)
        self.value.assign(ops.clip(value, -MAX_LOGIT, MAX_LOGIT))

    def take_move(self, *, rate: Any, step: Any) -> Any:
        """Returns the optimizer's last move of the probe, in units of `rate`.

        Once: the next call returns the move of the next step.
        """
        # A copy: JAX donates every variable's buffer to the step, and may be
        # given each only once.
        probe = ops.copy(ops.stop_gradient(self.probe))
        move = probe - self.seen
        mean_square = _DECAY * self.mean_square + (1 - _DECAY) * move * move
        count = ops.maximum(ops.cast(step, "float32"), 1.0)
        unbiased = mean_square / (1 - ops.power(_DECAY, count))
        self.seen.assign(probe)
        self.mean_square.assign(mean_square)
        # 1e-30 only avoids 0 / 0 before the first move.
        return rate * move / ops.sqrt(unbiased + 1e-30)

    def restart(self) -> None:
        """Forgets the size of earlier moves: a new training, a new rate."""
        self.mean_square.assign(ops.zeros((self.count,)))


def as_vectors(store: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns saved variables as vectors.

    Until 2026-11-29 a quantizer that was alone with its config saved scalars,
    and a bound of the kernel's rank. This goes with the support of such files.
    """
    return {key: np.reshape(store[key], (-1,)) for key in store.keys()}
