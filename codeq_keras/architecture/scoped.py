"""Runs a model with other values in some of its variables."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class ScopedRun:
    """A run inside of a `keras.StatelessScope`. It changed no variable.

    Attributes:
        outputs: The result of the function.
        assignments: Pairs of a variable and a value that the run gave it, in
            the order of the run.
        losses: What layers added to the loss.
    """

    outputs: Any
    assignments: list[tuple[keras.Variable, Any]]
    losses: list[Any]

    @property
    def updates(self) -> list[tuple[keras.Variable, Any]]:
        """The last assignment of each variable."""
        last = {id(pair[0]): pair for pair in self.assignments}
        return list(last.values())


class _Scope(keras.StatelessScope):
    """A scope that knows which variables were assigned.

    All other variables have the value of the scope around it, as under JAX.
    """

    def __init__(self, values: Iterable[tuple[keras.Variable, Any]]) -> None:
        super().__init__(state_mapping=list(values), collect_losses=True)
        self.assignments: list[tuple[keras.Variable, Any]] = []

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        variable, value = update
        if keras.backend.backend() == "tensorflow":
            # As without a scope there: no gradient passes an assignment.
            value = keras.ops.stop_gradient(value)
        super().add_update((variable, value))
        self.assignments.append((variable, self.get_current_value(variable)))

    def get_current_value(self, variable: keras.Variable) -> Any:
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            return self.original_scope.get_current_value(variable)
        return value


def run_scoped(
    function: Callable[[], Any],
    values: Iterable[tuple[keras.Variable, Any]],
) -> ScopedRun:
    """Calls `function`, to which each variable has the value of its pair."""
    with _Scope(values) as scope:
        outputs = function()
    return ScopedRun(outputs, scope.assignments, list(scope.losses))


def keep_updates(run: ScopedRun, quantized: Mapping[int, str]) -> None:
    """Assigns what a run assigned: statistics, ranges, states and seeds.

    Raises a ValueError for what cannot be kept: the optimizer also changes a
    trainable variable, and the value of a quantized one is not its own.
    `quantized` maps the `id` of a variable to its path.
    """
    for variable, value in run.updates:
        path = quantized.get(id(variable), variable.path)
        if variable.trainable:
            raise ValueError(
                "Expected layers that assign no trainable variable. Received: "
                f"{path!r}, which a call of the model assigns. Use a "
                "constraint such as `kernel_constraint` instead, which acts "
                "after the optimizer."
            )
        if id(variable) in quantized:
            raise ValueError(
                "Expected layers that assign no quantized variable. Received: "
                f"{path!r}, which a call of the model assigns. Leave it in "
                f"float: `overrides={{{path!r}: None}}`."
            )
        variable.assign(value)
