"""The two kinds of logits: at their own rate, and at the optimizer's."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

# Beyond it tanh is flat and the gradient too small to lead back.
MAX_LOGIT = 4.0

# Averages the squared updates over about 100 steps.
_DECAY = 0.99


class Logit(keras.layers.Layer):
    """A logit that moves at its own rate under any optimizer.

    A dead-zone logit has to travel about 2.5 units in one training, thousands
    of times the learning rate of a fine-tuning. Instead of a second optimizer,
    the optimizer moves `probe`, a trainable number that adds nothing to the
    value but carries its gradient. `advance` reads how far the probe was
    moved, divides by the root mean square of its moves, and moves `value` by
    that many times `rate`. So Adam, AdamW and SGD at any learning rate move
    the logit alike.

    Args:
        initial_value: Float, magnitude at most 4.
        shape: Shape of the variables: that of a scalar, or `(n,)` for the
            logits of n kernels, which move independently.

    Example:

    >>> logit = Logit(initial_value=3.0)
    >>> logit.build()
    >>> _ = logit.probe.assign(-1e-6)       # What an optimizer's step does.
    >>> logit.advance(rate=0.5, step=1)
    >>> round(float(logit.tensor()), 3)
    2.5
    """

    def __init__(
        self,
        initial_value: float,
        shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.initial_value = initial_value
        self.shape = shape

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables."""

        def variable(name: str, value: float, *, trainable: bool) -> Any:
            return self.add_weight(
                shape=self.shape,
                initializer=keras.initializers.Constant(value),
                trainable=trainable,
                name=name,
            )

        self.value = variable("value", self.initial_value, trainable=False)
        self.probe = variable("probe", 0.0, trainable=True)
        self.seen = variable("seen", 0.0, trainable=False)
        self.mean_square = variable("mean_square", 0.0, trainable=False)
        self.built = True

    def tensor(self) -> Any:
        """Returns the value, whose gradient goes to the probe."""
        probe = ops.convert_to_tensor(self.probe)
        return self.value + (probe - ops.stop_gradient(probe))

    def advance(self, *, rate: Any, step: Any) -> None:
        """Applies the optimizer's last move of the probe to the value.

        Args:
            rate: Float >= 0, how far one typical move changes the value.
            step: Integer >= 0, steps since the training began.
        """
        # A copy: JAX donates every variable's buffer to the step, and may be
        # given each only once.
        probe = ops.copy(ops.stop_gradient(self.probe))
        move = probe - self.seen
        mean_square = _DECAY * self.mean_square + (1 - _DECAY) * move * move
        count = ops.maximum(ops.cast(step, "float32"), 1.0)
        unbiased = mean_square / (1 - ops.power(_DECAY, count))
        # 1e-30 only avoids 0 / 0 before the first move.
        step_size = rate * move / ops.sqrt(unbiased + 1e-30)
        self.value.assign(
            ops.clip(self.value + step_size, -MAX_LOGIT, MAX_LOGIT)
        )
        self.seen.assign(probe)
        self.mean_square.assign(mean_square)

    def restart(self) -> None:
        """Forgets the size of earlier moves: a new training, a new rate."""
        self.mean_square.assign(ops.zeros(self.shape))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "initial_value": self.initial_value,
            "shape": self.shape,
        }


class PlainLogit(keras.layers.Layer):
    """A logit that is a weight like any other, as in the paper.

    The optimizer moves `value` itself. With stochastic gradient descent a
    penalty `lambda * value ** 2` therefore shrinks it by the same factor in
    every step, which is how the published dynamics come about; Adam divides
    the factor away.

    Args:
        initial_value: Float, magnitude at most 4.
        shape: Shape of the variables: that of a scalar, or `(n,)` for the
            logits of n kernels, which move independently.

    Example:

    >>> logit = PlainLogit(initial_value=3.0)
    >>> logit.build()
    >>> [variable.name for variable in logit.trainable_variables]
    ['value']
    """

    def __init__(
        self,
        initial_value: float,
        shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.initial_value = initial_value
        self.shape = shape

    def build(self, input_shape: Any = None) -> None:
        """Creates the variable."""
        self.value = self.add_weight(
            shape=self.shape,
            initializer=keras.initializers.Constant(self.initial_value),
            name="value",
        )
        self.built = True

    def tensor(self) -> Any:
        """Returns the value, differentiable."""
        return ops.convert_to_tensor(self.value)

    def advance(self, *, rate: Any, step: Any) -> None:
        """Does nothing: the optimizer has moved the value itself."""

    def restart(self) -> None:
        """Does nothing: there is no size of earlier moves to forget."""

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "initial_value": self.initial_value,
            "shape": self.shape,
        }


class LogitElement:
    """One of the logits in a vector, to be used as if it were alone.

    Args:
        logits: `Logit` or `PlainLogit` of shape `(n,)`, built.
        index: Place in it.
        tensors: What `tensor` returns, for all n, where it is known.

    Example:

    >>> logits = Logit(initial_value=3.0, shape=(2,))
    >>> logits.build()
    >>> element = LogitElement(logits, 1)
    >>> element.value.assign(0.5)
    >>> float(element.value), float(logits.value[0])
    (0.5, 3.0)
    """

    def __init__(
        self,
        logits: Logit | PlainLogit,
        index: int,
        tensors: Sequence[Any] | None = None,
    ) -> None:
        self.value = VariableElement(logits.value, index)
        self._logits = logits
        self._index = index
        self._tensors = tensors

    def tensor(self) -> Any:
        """Returns the value as a scalar, differentiable as in the vector."""
        if self._tensors is not None:
            return self._tensors[self._index]
        return self._logits.tensor()[self._index]


class VariableElement:
    """One element of a vector variable: read as a number, and assigned."""

    def __init__(self, variable: keras.Variable, index: int) -> None:
        self._variable = variable
        self._index = index

    def assign(self, value: Any) -> None:
        """Sets the element."""
        value = ops.reshape(ops.cast(value, self._variable.dtype), (1,))
        self._variable.assign(
            ops.slice_update(self._variable.value, [self._index], value)
        )

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """Returns the element as an array of rank 0, now and not later."""
        value = ops.convert_to_numpy(self._variable)[self._index]
        return np.array(value, dtype=dtype)

    def __float__(self) -> float:
        """Returns the element."""
        return float(self.__array__())
