"""Which channels of a class stay: their order, their number, its gradient.

A class is a row of an array: channels that must shrink together. Rows of
fewer channels are padded with energies of -1.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from codeq_keras.ops.grids import TEMPERATURE

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


def counts_above(shares: Any, thresholds: Any) -> Any:
    """Number of shares above the threshold of their row."""
    above = shares > ops.expand_dims(thresholds, -1)
    return ops.sum(ops.cast(above, "float32"), axis=-1)


def rounded_counts(counts: Any, multiple: int, floors: Any, sizes: Any) -> Any:
    """The counts, rounded up to a multiple, from floor to size."""
    rounded = ops.ceil(counts / multiple) * multiple
    return ops.clip(rounded, floors, sizes)


def with_soft_gradient(counts: Any, shares: Any, ratios: Any) -> Any:
    """The counts, with the gradient of a soft count to the ratios.

    As the zeros of a kernel: a sigmoid stands for the step, in closed form.
    """
    edges = ops.stop_gradient(ops.expand_dims(ratios, -1))
    soft = ops.sigmoid((shares - edges) / TEMPERATURE)
    inside = ops.cast(shares >= 0, "float32")
    slopes = ops.sum((soft - soft * soft) * inside, axis=-1) / TEMPERATURE
    change = ratios - ops.stop_gradient(ratios)
    return ops.stop_gradient(counts) - ops.stop_gradient(slopes) * change


def gate_factors(alive: Any, shares: Any, ratios: Any) -> Any:
    """1 for a channel that stays and 0 for others, which pull on the ratio.

    The gradient is that of the proximal map `v * relu(1 - ratio / share)`,
    whose survivors are left as they were: `-1 / share` where it is 0.
    """
    removed = ops.cast(shares >= 0, "float32") * (1.0 - alive)
    slopes = ops.divide_no_nan(removed, ops.relu(shares))
    change = ratios - ops.stop_gradient(ratios)
    return alive - ops.stop_gradient(slopes) * ops.expand_dims(change, -1)


def least_factor(is_met: Callable[[Any], Any]) -> Any:
    """The least factor that meets a condition; larger ones meet it, too."""

    def halved(_: Any, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = ends
        middle = (low + high) / 2
        met = is_met(ops.exp(middle))
        return ops.where(met, low, middle), ops.where(met, middle, high)

    end = ops.convert_to_tensor(_LARGEST_LOG_FACTOR, dtype="float32")
    _, high = ops.fori_loop(0, _NUM_HALVINGS, halved, (-end, end))
    return ops.exp(high)


def filled_counts(
    counts: Any,
    shares: Any,
    steps: Any,
    sizes: Any,
    is_met: Callable[[Any], Any],
) -> Any:
    """Adds channels, the largest shares first, while a condition is met.

    Each addition is one step of one class. `is_met` takes a row of counts for
    each of several choices.
    """
    ordered = -ops.sort(-shares, axis=-1)

    def filled(counts: Any, _: Any) -> tuple[Any, Any]:
        more = ops.minimum(counts + steps, sizes)
        choices = counts + ops.diag(more - counts)
        fits = ops.logical_and(is_met(choices), more > counts)
        # Of those that would come next; the last column stands for none left.
        places = ops.cast(ops.minimum(counts, ordered.shape[-1] - 1), "int32")
        following = ops.take_along_axis(ordered, places[:, None], axis=-1)
        best = ops.argmax(ops.where(fits, following[:, 0], -1.0))
        is_any = ops.any(fits)
        return ops.where(
            is_any, ops.take(choices, best, axis=0), counts
        ), is_any

    counts, _ = ops.while_loop(
        lambda _, is_any: is_any,
        filled,
        (ops.convert_to_tensor(counts), ops.convert_to_tensor(True)),
    )
    return counts
