"""Finds the float tensors that mean integers: tokens, categories, positions.

They are read as indices. Rounded to 8 bits, they would look up other words.
"""

from collections.abc import Iterator

from codeq_keras.activations.operators import (
    MOVING,
    VANISHING,
    activation_of,
)
from codeq_keras.architecture.calls import (
    Call,
    Graph,
    Tensor,
    kind_of,
    tensors_in,
)

_LOOKUPS = ("CategoryEncoding", "Embedding", "Hashing", "OneHot")
_TAKING = ("Take", "TakeAlongAxis")
# The user wants an integer of a real number.
_ROUNDING = ("Ceil", "Floor", "FloorDivide", "Round", "Trunc")


def index_tensors(graph: Graph) -> frozenset[int]:
    """Returns the numbers of the float tensors that are only read as indices.

    They are inputs, casts of integers, and what is moved from those. An index
    that is computed in float, or is a number for others, is a ValueError.
    """
    indices = _Indices(graph)
    for reader, tensor in indices.read:
        if tensor.index in indices.kept or indices.is_rounded_number(tensor):
            continue
        raise ValueError(
            "`activation_bit_width` needs indices, such as tokens, categories "
            "and positions, in integers. Received: floats that are computed "
            f"or read as numbers too, at {reader.path!r}. 8 bits would round "
            'them. Give the input `keras.Input(..., dtype="int32")`, and '
            "compute indices in integers: `keras.ops.cast(..., "
            '"int32")` before the arithmetic.'
        )
    return indices.kept


class _Indices:
    """The readers of indices in a graph, and the floats that they read."""

    def __init__(self, graph: Graph) -> None:
        self.makers = {t.index: c for c in graph.calls for t in c.results}
        self.readers: dict[int, list[Call]] = {}
        for call in graph.calls:
            for tensor in call.inputs:
                self.readers.setdefault(tensor.index, []).append(call)
        self.outputs = {t.index for t in tensors_in(graph.outputs)}
        self.read = [
            (call, tensor)
            for call in graph.calls
            for tensor in _indices_of(call)
            if tensor.is_float
        ]
        self.kept = frozenset(
            tensor.index
            for _, read in self.read
            for chain in [list(self._chain(read))]
            if self._is_only_index(chain[-1])
            for tensor in chain
        )

    def _chain(self, tensor: Tensor) -> Iterator[Tensor]:
        """A tensor, and those that it was moved from, back to the first."""
        yield tensor
        maker = self.makers.get(tensor.index)
        if maker is not None and _moves(maker):
            yield from self._chain(maker.inputs[0])

    def _is_only_index(self, first: Tensor) -> bool:
        maker = self.makers.get(first.index)
        is_whole = maker is None or _casts_integers(maker)
        return is_whole and self._is_read_as_index(first)

    def _is_read_as_index(self, tensor: Tensor) -> bool:
        if tensor.index in self.outputs:
            return False
        return all(
            tensor in _indices_of(reader)
            or (
                _moves(reader)
                and all(map(self._is_read_as_index, reader.results))
            )
            for reader in self.readers[tensor.index]
        )

    def is_rounded_number(self, tensor: Tensor) -> bool:
        """Whether the user rounds a real number to an integer here."""
        maker = self.makers.get(tensor.index)
        if maker is None:
            return False
        if kind_of(maker.operation) in _ROUNDING:
            return True
        return any(map(self.is_rounded_number, maker.inputs))


def _indices_of(call: Call) -> list[Tensor]:
    """The inputs that a call reads as integers."""
    kind = kind_of(call.operation)
    if kind == "Cast" and "int" in call.operation.dtype:
        return call.inputs
    if kind in _TAKING:
        return call.inputs[1:]
    return call.inputs[:1] if kind in _LOOKUPS else []


def _moves(call: Call) -> bool:
    kind = kind_of(call.operation)
    is_linear = activation_of(call.operation) == "linear"
    return kind in MOVING | VANISHING or is_linear


def _casts_integers(call: Call) -> bool:
    is_cast = kind_of(call.operation) == "Cast"
    return is_cast and not call.inputs[0].is_float
