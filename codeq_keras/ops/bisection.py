"""bisected: from where on a condition is met, in a traced graph."""

from collections.abc import Callable
from typing import Any

from keras import ops


def bisected(
    is_met: Callable[[Any], Any], low: Any, high: Any, num_halvings: int
) -> tuple[Any, Any]:
    """Returns the ends around the places from which on a condition is met.

    Elementwise. It is not met at the first end, and met at the second, if it
    is not met at `low` and met at `high`.
    """

    def halved(_: Any, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = ends
        middle = (low + high) / 2
        met = is_met(middle)
        return ops.where(met, low, middle), ops.where(met, middle, high)

    return ops.fori_loop(0, num_halvings, halved, (low, high))
