"""Whose the parts of a file are: the layer of each tensor and operator."""

from typing import Any, NamedTuple

from tflite_export.format import reader
from tflite_export.format.names import layer_part
from tflite_export.format.operators import (
    DECODE,
    EDGE_TPU,
    ETHOS_U,
    UNPACKING,
)
from tflite_export.format.records import Operator
from tflite_export.format.tensors import GRAPH_TYPES, dtype_name

BIAS_POSITIONS = {
    "CONV_2D": 2,
    "DEPTHWISE_CONV_2D": 2,
    "FULLY_CONNECTED": 2,
    "TRANSPOSE_CONV": 3,
}
_UNPACKING = (*UNPACKING, DECODE)


class Owner(NamedTuple):
    """A tensor or an operator; `kind` is "tensors" or "operators"."""

    subgraph: int
    kind: str
    number: int


class Owners:
    """The kinds of all buffers, and the layers of all tensors and operators.

    `buffers` has the kind and the owner of a buffer by its index; a buffer that
    nothing reads has none. `layers` has no entry for what belongs to the file.
    """

    def __init__(self, model: Any) -> None:
        self.buffers: dict[int, tuple[str, Owner | None]] = {}
        self.layers: dict[Owner, str] = {}
        for number in range(len(model.subgraphs)):
            graph = _Graph(model, number)
            self.layers |= graph.layers()
            for buffer, label in graph.buffers().items():
                self.buffers.setdefault(buffer, label)
        for record in model.metadata or ():
            self.buffers.setdefault(record.buffer, ("metadata", None))


class _Graph:
    """One subgraph: its operators, and the first reader of each tensor."""

    def __init__(self, model: Any, number: int) -> None:
        self._number = number
        graph = model.subgraphs[number]
        self._tensors = graph.tensors or ()
        self._operators = [
            reader.read_operator(model, number, index)
            for index in range(len(graph.operators or ()))
        ]
        self._readers: dict[int, Operator] = {}
        for operator in self._operators:
            for index in operator.inputs:
                self._readers.setdefault(index, operator)
        self._held = {
            index
            for index, tensor in enumerate(self._tensors)
            if model.buffers[tensor.buffer].data is not None
            or model.buffers[tensor.buffer].size
        }
        self._held |= {
            index
            for operator in self._operators
            if operator.name in _UNPACKING
            for index in operator.outputs
        }

    def buffers(self) -> dict[int, tuple[str, Owner | None]]:
        """The kind and the owner of each buffer that a tensor has."""
        labels: dict[int, tuple[str, Owner | None]] = {}
        for operator in self._operators:
            for position, index in enumerate(operator.inputs):
                if index >= 0:
                    tensor = self._tensors[index]
                    dtype = dtype_name(tensor.type)
                    kind = constant_kind(operator.name, position, dtype)
                    label = kind, self._owner("tensors", index)
                    labels.setdefault(tensor.buffer, label)
        for index, tensor in enumerate(self._tensors):
            kind = constant_kind("", 0, dtype_name(tensor.type))
            label = kind, self._owner("tensors", index)
            labels.setdefault(tensor.buffer, label)
        return labels

    def layers(self) -> dict[Owner, str]:
        """The layer of each operator, of what it computes, and of constants."""
        named = {}
        by_operator = [self._layer(operator) for operator in self._operators]
        for index, operator in self._readers.items():
            if index in self._held:
                owner = self._owner("tensors", index)
                named[owner] = by_operator[operator.index]
        for operator, layer in zip(self._operators, by_operator, strict=True):
            named[self._owner("operators", operator.index)] = layer
            for index in operator.outputs:
                named[self._owner("tensors", index)] = layer
        return named

    def _layer(self, operator: Operator) -> str:
        """The layer of an operator's weights, or its own name."""
        while operator.name in _UNPACKING:
            behind = self._readers.get(next(iter(operator.outputs), -1))
            # A damaged graph may go round in circles.
            if behind is None or behind.index <= operator.index:
                break
            operator = behind
        held = [self._tensors[i] for i in operator.inputs if i in self._held]
        # Weights name a layer; a constant shape may have the name of another.
        held.sort(key=lambda t: dtype_name(t.type) in GRAPH_TYPES)
        return next(filter(None, map(_path, held)), operator.name)

    def _owner(self, kind: str, index: int) -> Owner:
        return Owner(self._number, kind, index)


def _path(tensor: Any) -> str:
    return layer_part(reader.decoded(tensor.name)).rpartition("/")[0]


def constant_kind(operator: str, position: int, dtype: str) -> str:
    """Returns what a constant is for the operator that reads it there."""
    if operator == DECODE:
        return "tables" if position % 2 else "weights"
    if operator in (ETHOS_U, EDGE_TPU):
        return "compiled"
    if position == BIAS_POSITIONS.get(operator):
        return "biases"
    return "graph" if dtype in GRAPH_TYPES else "weights"
