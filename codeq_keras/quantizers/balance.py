"""balance: lets a budget pull on logits as hard as the loss of the task does."""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

# The pull of a budget that is missed by a factor of e, in gradients of the
# task; 0.3 to 3 train alike.
import os
_PULL = float(os.environ.get("K","1"))

# Far below any gradient: a task that is solved, whose gradient is 0, leaves
# the budget a direction.
_GAIN = 1e-3


def balance(logits: Sequence[Any]) -> tuple[list[Any], list[Any], Any]:
    """Returns logits for the task, the same for a budget, and a unit of 0.

    Both copies have the value of `logits`, and their gradients go back to it:
    that of the task as it is, that of the budget times the length of the
    task's. So a loss of any size, of any scaling by an optimizer or weights,
    leaves the two in the same proportion. The unit must be added to the loss
    next to the budget's penalty: its gradient tells by how much the loss was
    scaled.
    """
    sizes = [logit.shape[0] for logit in logits]
    values = _balanced(ops.concatenate(logits))
    cuts = [sum(sizes[:end]) for end in range(1, len(sizes))]
    task, budget, unit = ops.split(values, [sum(sizes), 2 * sum(sizes)])
    return _split(task, cuts), _split(budget, cuts), unit[0]


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
        length = ops.sqrt(ops.sum(task * task))
        return _GAIN*(unit * ops.divide_no_nan(task, length) + _PULL * budget)

    zero = ops.zeros((1,), dtype=logits.dtype)
    return ops.concatenate([logits, logits, zero]), gradient
