"""balance: the pulls of the task and of a budget on the logits."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

# Weight of a budget beside the task, whose gradient has the length 1. A budget
# that is missed by 1 % then weighs as much; 0.3 to 1 train alike.
_PULL = 0.5

# Length of the task's gradient to the logits: as small as not to be felt by
# `global_clipnorm`. The size does not matter to `Logit`.
_LENGTH = 1e-3


def balance(logits: Sequence[Any]) -> tuple[list[Any], list[Any], Any]:
    """Returns logits for the task, the same for a budget, and a unit of 0.

    Both copies have the values of `logits`, and their gradients go back to it:
    that of the task shortened to a fixed length, that of the budget evened out.
    So the two are in proportion whatever the size of the loss is. The unit
    must be added to the loss: its gradient is the factor by which an optimizer
    or a distribution scales the loss, and with it the gradient of the budget.

    Example:

    >>> import keras
    >>> [task], [budget], unit = balance([keras.ops.array([3.0, 2.0])])
    >>> [float(values[0]) for values in (task, budget)], float(unit)
    ([3.0, 3.0], 0.0)
    """
    sizes = [logit.shape[0] for logit in logits]
    values = _balanced(ops.concatenate(logits))
    cuts = list(itertools.accumulate(sizes))
    task, budget, unit = ops.split(values, [cuts[-1], 2 * cuts[-1]])
    return _split(task, cuts[:-1]), _split(budget, cuts[:-1]), unit[0]


def _split(vector: Any, cuts: list[int]) -> list[Any]:
    # TensorFlow refuses to split into one.
    return list(ops.split(vector, cuts)) if cuts else [vector]


@ops.custom_gradient
def _balanced(logits: Any) -> tuple[Any, Callable[..., Any]]:
    """The logits twice and a zero, in one vector: PyTorch knows one output."""
    count = logits.shape[0]

    def gradient(*args: Any, upstream: Any = None) -> Any:
        if upstream is None:
            (upstream,) = args
        task, budget, unit = ops.split(upstream, [count, 2 * count])
        length = ops.sqrt(ops.sum(ops.divide_no_nan(task, unit) ** 2))
        task = ops.divide_no_nan(task, length)
        return _LENGTH * (task + _PULL * _evened(budget))

    zero = ops.zeros((1,), dtype=logits.dtype)
    return ops.concatenate([logits, logits, zero]), gradient


def _evened(gradient: Any) -> Any:
    """The square roots of a gradient, about as long as it is.

    The pull on a kernel grows with its part of the costs. As it is, the
    largest kernels give nearly all; the same pull on all empties the smallest.
    """
    size = ops.sqrt(ops.mean(gradient**2))
    return ops.sign(gradient) * ops.sqrt(ops.abs(gradient) * size)
