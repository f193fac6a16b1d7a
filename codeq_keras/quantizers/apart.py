"""taken_apart: the vectors of states, taken apart once for a whole step."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import keras

from codeq_keras.quantizers.balance import balance


class HasParts(Protocol):
    """Vectors that are taken apart once a step: of logits, or of gates."""

    _parts: Any

    def tensors(self) -> list[Any]: ...  # noqa: D102

    def _apart(self, task: Any = None, budget: Any = None) -> Any: ...


@contextlib.contextmanager
def taken_apart(
    states: Sequence[HasParts], *, for_budget: bool = False
) -> Iterator[Any]:
    """Takes the vectors of states apart once for all that is asked within.

    For a budget, the costs are of other copies of the logits than the values,
    and the unit that is yielded belongs into its penalty, see `balance`.
    """
    tensors = [state.tensors() for state in states]
    task, budget, unit = tensors, tensors, 0.0
    if for_budget and states:
        flat = [tensor for vectors in tensors for tensor in vectors]
        *copies, unit = balance(flat)
        task, budget = (
            keras.tree.pack_sequence_as(tensors, copy) for copy in copies
        )
    for state, *vectors in zip(states, task, budget, strict=True):
        state._parts = state._apart(*vectors)
    try:
        yield unit
    finally:
        for state in states:
            state._parts = None
