"""Which channels of a class stay: their order, their number, its gradient.

A class is a row of an array: channels that must shrink together. Rows of
fewer channels are padded with energies of -1.
"""

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from codeq_keras.ops.bisection import bisected

# Finds a factor from 5e-5 to 2e4 to 1e-4 of itself.
_NUM_HALVINGS = 18
_LARGEST_LOG_FACTOR = 10.0


def relative_shares(energies: Any) -> Any:
    """Root of each energy, relative to the largest of its row; -1 in padding.

    The energy of a channel is what it adds to the outputs of its readers.
    """
    energies = ops.convert_to_tensor(energies)
    largest = ops.max(energies, axis=-1, keepdims=True)
    shares = ops.sqrt(ops.divide_no_nan(ops.relu(energies), largest))
    return ops.where(energies < 0, -1.0, shares)


def channel_ranks(energies: Any) -> Any:
    """The place of each channel in its row, 0 for the largest energy."""
    order = ops.argsort(-ops.convert_to_tensor(energies), axis=-1)
    return ops.cast(ops.argsort(order, axis=-1), "float32")


def counts_of(ratios: Any, multiple: int, floors: Any, sizes: Any) -> Any:
    """How many channels stay where a part of each class is removed.

    The nearest multiple, from floor to size.
    """
    rounded = ops.round(sizes * (1.0 - ratios) / multiple) * multiple
    return ops.clip(rounded, floors, sizes)


def with_gradient(counts: Any, ratios: Any, sizes: Any) -> Any:
    """The counts, with the gradient of `sizes * (1 - ratios)` to the ratios."""
    change = ratios - ops.stop_gradient(ratios)
    return ops.stop_gradient(counts) - sizes * change


def gate_factors(alive: Any, shares: Any, ratios: Any) -> Any:
    """1 for a channel that stays and 0 for others, which pull on the ratio.

    The gradient is that of the proximal map `v * relu(1 - ratio / share)`,
    whose survivors are left as they were: `-1 / share` where it is 0. So the
    task pulls on a class by what its removed channels would add.
    """
    removed = ops.cast(shares >= 0, "float32") * (1.0 - alive)
    slopes = ops.divide_no_nan(removed, ops.relu(shares))
    change = ratios - ops.stop_gradient(ratios)
    return alive - ops.stop_gradient(slopes) * ops.expand_dims(change, -1)


def least_factor(is_met: Callable[[Any], Any]) -> Any:
    """The least factor that meets a condition; larger ones meet it, too."""
    end = ops.convert_to_tensor(_LARGEST_LOG_FACTOR, dtype="float32")
    _, high = bisected(
        lambda logarithm: is_met(ops.exp(logarithm)), -end, end, _NUM_HALVINGS
    )
    return ops.exp(high)


def filled_counts(
    counts: Any,
    wanted: Any,
    steps: Any,
    sizes: Any,
    is_met: Callable[[Any], Any],
) -> Any:
    """Adds channels where most are wanted, while a condition is met.

    Each addition is one step of one class. `is_met` takes a row of counts for
    each of several choices.
    """

    def filled(counts: Any, _: Any) -> tuple[Any, Any]:
        more = ops.minimum(counts + steps, sizes)
        choices = counts + ops.diag(more - counts)
        fits = ops.logical_and(is_met(choices), more > counts)
        best = ops.argmax(ops.where(fits, wanted - counts, -math.inf))
        is_any = ops.any(fits)
        best = ops.take(choices, best, axis=0)
        return ops.where(is_any, best, counts), is_any

    counts, _ = ops.while_loop(
        lambda _, is_any: is_any,
        filled,
        (ops.convert_to_tensor(counts), ops.convert_to_tensor(True)),
    )
    return counts
