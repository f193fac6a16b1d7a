"""The one check of a number that an argument takes."""

import dataclasses
import math
import numbers
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interval:
    """Numbers between two ends, which belong to it only where said."""

    low: float
    high: float = math.inf
    has_low: bool = False
    has_high: bool = False

    def __contains__(self, value: Any) -> bool:
        """Whether `value` is a number in between; NaN is not."""
        if not is_number(value):
            return False
        above = self.low <= value if self.has_low else self.low < value
        below = value <= self.high if self.has_high else value < self.high
        return bool(above and below)

    def __str__(self) -> str:
        """Returns it in the notation of mathematics."""
        opening, closing = "[("[not self.has_low], "])"[not self.has_high]
        return f"{opening}{self.low:g}, {self.high:g}{closing}"


def require_number(
    name: str, value: Any, interval: Interval, reason: str = ""
) -> None:
    """Raises a ValueError unless an argument is a number in the interval."""
    if value not in interval:
        reason = reason and f": {reason}"
        raise ValueError(
            f"`{name}` must be a number in {interval}{reason}. "
            f"Received: {name}={value!r}."
        )


def is_number(value: Any) -> bool:
    """Whether `value` is a real number, NumPy's included, and no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def as_python(value: Any) -> Any:
    """Returns a scalar of NumPy as that of Python, which files can hold."""
    return value.item() if isinstance(value, np.generic) else value
