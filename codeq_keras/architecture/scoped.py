"""Runs a model with other values in its variables. Changes no variable."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class ScopedRun:
    """A run inside of a `keras.StatelessScope`.

    Attributes:
        outputs: The result of the function.
        updates: Pairs of a variable and the value that the run gave it.
        losses: What layers added to the loss.
    """

    outputs: Any
    updates: list[tuple[keras.Variable, Any]]
    losses: list[Any]


def run_scoped(
    function: Callable[[], Any],
    values: Iterable[tuple[keras.Variable, Any]],
) -> ScopedRun:
    """Calls `function`, to which each variable has the value of its pair."""
    values = list(values)
    with keras.StatelessScope(
        state_mapping=values, collect_losses=True
    ) as scope:
        before = dict(scope.state_mapping)
        outputs = function()
    updates = [
        (variable, value)
        for variable, _ in values
        if (value := scope.get_current_value(variable))
        is not before[id(variable)]
    ]
    return ScopedRun(outputs, updates, list(scope.losses))
