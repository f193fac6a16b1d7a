"""Decides where activations are quantized: where a TFLite file does so.

Pure analysis of a graph. Creates no layer.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from codeq_keras.activations.indices import index_tensors
from codeq_keras.activations.operators import (
    AVERAGING,
    CONVOLUTIONS,
    FIXED_RANGES,
    FUSED_ACTIVATIONS,
    FUSING,
    MOVING,
    SAME_SCALE,
    SINGLE_ACTIVATIONS,
    SINGLE_OPERATORS,
    VANISHING,
    activation_name,
    activation_of,
    is_fused,
    is_joining,
)
from codeq_keras.architecture.calls import (
    Call,
    Graph,
    Tensor,
    kind_of,
    tensors_in,
)


class Site(NamedTuple):
    """A tensor of the graph that a quantizer rounds.

    Attributes:
        tensor: The tensor.
        path: Its layer or operation, unique in the graph.
        fixed_range: The range that TFLite prescribes, or None.
        shared: Index of the tensor whose quantizer rounds this one too, or
            None for one of its own.
        is_average: Whether it is an average of rounded values, which TFLite
            rounds in a way of its own.
    """

    tensor: Tensor
    path: str
    fixed_range: tuple[float, float] | None
    shared: int | None
    is_average: bool = False


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the activations of a graph are quantized.

    Attributes:
        sites: One per tensor that is rounded, in the order of the graph.
        inner: Paths of the calls that compute with activations that cannot be
            seen from outside, such as attention and recurrent layers.
        rounded: All tensors that hold values of a range, those that were only
            moved included: by index, that of the tensor with the range.
    """

    sites: tuple[Site, ...]
    inner: tuple[str, ...]
    rounded: Mapping[int, int]


def place(graph: Graph) -> Placement:
    """Finds the tensors that are int8 in a TFLite file of a graph.

    They are the inputs and outputs of all operators of the file. A convolution,
    the BatchNormalization directly after it and the ReLU after that are one
    operator. An operator that only moves data has the range of its input. A
    tensor that only a Concatenate reads is computed at the range of its
    output. A moved tensor that others read as well is rounded to the range of
    the Concatenate for all of them. Floats that are only read as indices are
    not rounded.

    Example:

    >>> import keras
    >>> from codeq_keras.architecture.calls import read_graph
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3), name="image"),
    ...     keras.layers.Conv2D(4, 3, name="conv"),
    ...     keras.layers.BatchNormalization(name="norm"),
    ...     keras.layers.ReLU(name="relu"),
    ...     keras.layers.Flatten(name="flatten"),
    ...     keras.layers.Dense(2, name="dense"),
    ... ])
    >>> [site.path for site in place(read_graph(model)).sites]
    ['image', 'relu', 'dense']
    """
    return _Placer(graph).place()


class _Placer:
    """The state of one analysis."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.readers: dict[int, list[Call]] = {}
        for call in graph.calls:
            for tensor in call.inputs:
                self.readers.setdefault(tensor.index, []).append(call)
        self.outputs = {t.index for t in tensors_in(graph.outputs)}
        self.indices = index_tensors(graph)
        self.sites: dict[int, Site] = {}
        # The tensor whose range a tensor has, where it has one.
        self.range_of: dict[int, int] = {}
        # Made by operators that only move data.
        self.moved: set[int] = set()
        self.names: Counter[str] = Counter()

    def place(self) -> Placement:
        inputs = tensors_in(self.graph.inputs)
        for tensor, name in zip(inputs, self.graph.names, strict=True):
            self._add(tensor, name)
        inner = []
        for call in self.graph.calls:
            self._visit(call)
            if not _is_single_operator(call):
                inner.append(call.path)
        return Placement(
            sites=tuple(self.sites.values()),
            inner=tuple(dict.fromkeys(inner)),
            rounded=self.range_of,
        )

    def _visit(self, call: Call) -> None:
        kind = kind_of(call.operation)
        source = call.inputs[0].index if call.inputs else -1
        if _is_vanishing(call) or _is_moving(call):
            is_moved = _is_moving(call) or source in self.moved
            for tensor in call.results:
                if is_moved:
                    self.moved.add(tensor.index)
                joining = self._joining_reader(tensor) if is_moved else None
                if joining is not None:
                    # The converter has it so: a file rounds what was moved
                    # once, for all that read it.
                    joined = joining.results[0].index
                    self._add(tensor, call.path, shared=joined)
                elif source in self.range_of:
                    self.range_of[tensor.index] = self.range_of[source]
            return
        shared = self.range_of.get(source) if kind in SAME_SCALE else None
        fixed = FIXED_RANGES.get(activation_of(call.operation) or "")
        for tensor in call.results:
            has_own = fixed is not None or shared is not None
            is_joined = not has_own and self._is_joined(call, tensor)
            if not is_joined and not self._is_continued(call, tensor):
                self._add(
                    tensor,
                    call.path,
                    fixed=fixed,
                    shared=shared,
                    is_average=shared is not None,
                )

    def _add(
        self,
        tensor: Tensor,
        path: str,
        *,
        fixed: tuple[float, float] | None = None,
        shared: int | None = None,
        is_average: bool = False,
    ) -> None:
        if not tensor.is_float or tensor.index in self.indices:
            return
        self.names[path] += 1
        if self.names[path] > 1:
            path = f"{path}_{self.names[path] - 1}"
        self.sites[tensor.index] = Site(tensor, path, fixed, shared, is_average)
        self.range_of[tensor.index] = tensor.index if shared is None else shared

    def _is_continued(self, call: Call, tensor: Tensor) -> bool:
        """Whether the operator of the file goes on after this tensor."""
        kind = kind_of(call.operation)
        if kind not in FUSING or not _is_linear(call.operation):
            return False
        following = self._only_reader(tensor)
        if following is None:
            return False
        if activation_of(following.operation) in FUSED_ACTIVATIONS:
            return True
        is_norm = kind_of(following.operation) == "BatchNormalization"
        return is_norm and kind in CONVOLUTIONS

    def _is_joined(self, call: Call, tensor: Tensor) -> bool:
        """Whether the range is that of the one call that reads a tensor."""
        following = self._only_reader(tensor, past_moving=True)
        if following is None or is_joining(call.operation):
            return False
        return is_joining(following.operation)

    def _joining_reader(self, tensor: Tensor) -> Call | None:
        """The first Concatenate among the several readers of a moved tensor.

        None where averages are taken as well, or the tensor is an output:
        the converter leaves these at the range of their input.
        """
        readers = self.readers.get(tensor.index, [])
        if len(readers) < 2 or tensor.index in self.outputs:
            return None
        computing = list(self._computing_readers(tensor))
        if any(kind_of(call.operation) in SAME_SCALE for call in computing):
            return None
        joining = (c for c in computing if is_joining(c.operation))
        return next(joining, None)

    def _computing_readers(self, tensor: Tensor) -> Iterator[Call]:
        """The readers of a tensor, past those that vanish or only move data."""
        for call in self.readers.get(tensor.index, []):
            if _is_vanishing(call) or _is_moving(call):
                for result in call.results:
                    yield from self._computing_readers(result)
            else:
                yield call

    def _only_reader(
        self, tensor: Tensor, *, past_moving: bool = False
    ) -> Call | None:
        """The one call that reads a tensor, past those that vanish."""
        readers = self.readers.get(tensor.index, [])
        if len(readers) != 1 or tensor.index in self.outputs:
            return None
        reader = readers[0]
        if len(reader.results) == 1 and (
            _is_vanishing(reader) or (past_moving and _is_moving(reader))
        ):
            return self._only_reader(reader.results[0], past_moving=past_moving)
        return readers[0]


def _is_vanishing(call: Call) -> bool:
    kind = kind_of(call.operation)
    is_linear = activation_of(call.operation) == "linear"
    return kind in VANISHING or is_linear


def _is_moving(call: Call) -> bool:
    kind = kind_of(call.operation)
    # A mask is a second input, and leaves values out.
    if kind not in AVERAGING or len(call.inputs) != 1:
        return kind in MOVING
    (tensor,), (result,) = call.inputs, call.results
    is_same_batch = result.shape[:1] == tensor.shape[:1]
    return is_same_batch and 0 < _size(tensor) == _size(result)


def _size(tensor: Tensor) -> int:
    """Values of a sample; 0 if not known."""
    return math.prod(length or 0 for length in tensor.shape[1:])


def _is_linear(operation: Any) -> bool:
    function = getattr(operation, "activation", None)
    return activation_name(function) == "linear"


def _is_single_operator(call: Call) -> bool:
    name = activation_of(call.operation)
    if name is not None:
        return name in {
            *FUSED_ACTIVATIONS,
            *FIXED_RANGES,
            *SINGLE_ACTIVATIONS,
        }
    kind = kind_of(call.operation)
    if kind not in SINGLE_OPERATORS:
        return False
    return kind not in CONVOLUTIONS or is_fused(call.operation.activation)
