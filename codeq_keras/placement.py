"""Decides where activations are quantized: where a TFLite file does so.

Pure analysis of a graph. Creates no layer.
"""

import dataclasses
import math
from collections import Counter
from typing import Any, NamedTuple

import keras

from codeq_keras.graph import Call, Graph, Tensor, tensors_in

# Layers and operations by class name: `keras.ops` has no public classes. Only
# classes of Keras itself count, since a subclass may compute anything.

# Nothing at inference: their output is their input.
_VANISHING = {
    "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout",
    "GaussianNoise", "Identity", "SpatialDropout1D", "SpatialDropout2D",
    "SpatialDropout3D",
}  # fmt: skip

# Their output holds values of their input, or zeros, so it has its range.
_MOVING = {
    "Cropping1D", "Cropping2D", "Cropping3D", "ExpandDims", "Flatten", "Flip",
    "GetItem", "GlobalMaxPooling1D", "GlobalMaxPooling2D",
    "GlobalMaxPooling3D", "MaxPool", "MaxPooling1D", "MaxPooling2D",
    "MaxPooling3D", "Permute", "Ravel", "Repeat", "RepeatVector", "Reshape",
    "Split", "Squeeze", "Tile", "Transpose", "ZeroPadding1D", "ZeroPadding2D",
    "ZeroPadding3D",
}  # fmt: skip

# They move data as well where each average is of one value, as behind the last
# convolutions of a network for large images that is given small ones.
_AVERAGING = {
    "GlobalAveragePooling1D", "GlobalAveragePooling2D",
    "GlobalAveragePooling3D", "Mean",
}  # fmt: skip

# TFLite keeps the scale of their input, and rounds the results to it.
_SAME_SCALE = {
    "AveragePool", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D",
    "Resize", "UpSampling1D", "UpSampling2D", "UpSampling3D",
}  # fmt: skip

# TFLite reads and writes at one scale: rounding what they read is rounding
# what they return.
_JOINING = {"Concatenate", "Maximum", "Minimum"}

# A BatchNormalization behind them becomes part of their weights.
_CONVOLUTIONS = {
    "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Conv3D",
    "Dense", "DepthwiseConv1D", "DepthwiseConv2D", "EinsumDense",
    "SeparableConv1D", "SeparableConv2D",
}  # fmt: skip

_AFFINE = {"BatchNormalization", "Normalization", "Rescaling"}

# An activation behind them is computed by the same operator of the file.
_FUSING = _CONVOLUTIONS | _AFFINE | {"Add", "Subtract", "Multiply"}

_FUSED_ACTIVATIONS = {"linear", "relu", "relu6"}

# The ranges that TFLite prescribes: a scale of 1/256 or 1/128, zero point -128
# or 0.
_FIXED_RANGES = {
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}

# One operator each, or (SiLU) two with a prescribed range between them.
_SINGLE_ACTIVATIONS = {"gelu", "hard_silu", "leaky_relu", "silu"}

# One operator of a file each, so that nothing inside is without a range.
_SINGLE_OPERATORS = (
    _VANISHING | _MOVING | _SAME_SCALE | _JOINING | _FUSING | {
        "Embedding", "GlobalAveragePooling1D", "GlobalAveragePooling2D",
        "InputLayer", "LeakyReLU", "LeakyRelu", "Mean", "PReLU", "ReLU",
    }
)  # fmt: skip


class Site(NamedTuple):
    """A tensor of the graph that a quantizer rounds.

    Attributes:
        tensor: The tensor.
        path: What computes it, unique in the graph.
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
        rounded: Indices of all tensors that hold values of a range, those
            that were only moved included.
    """

    sites: tuple[Site, ...]
    inner: tuple[str, ...]
    rounded: frozenset[int]


def kind_of(operation: Any) -> str:
    """Returns the class name of an operation of Keras, or "" for others.

    Args:
        operation: A layer, or an operation of `keras.ops`.

    Example:

    >>> kind_of(keras.layers.ReLU())
    'ReLU'
    """
    is_keras = type(operation).__module__.split(".")[0] == "keras"
    return type(operation).__name__ if is_keras else ""


def activation_of(operation: Any) -> str | None:
    """Returns the name of the function if an operation is an activation.

    Args:
        operation: A layer, or an operation of `keras.ops`.

    Returns:
        A name of `keras.activations`, or None if it is something else.

    Example:

    >>> activation_of(keras.layers.ReLU(max_value=6))
    'relu6'
    """
    kind = kind_of(operation)
    if kind == "ReLU":
        config = operation.get_config()
        if config["negative_slope"] or config["threshold"]:
            return None
        limits = {None: "relu", 6: "relu6"}
        return limits.get(config["max_value"])
    if kind == "Activation":
        return activation_name(operation.activation)
    if kind == "Softmax":
        is_last = operation.get_config()["axis"] == -1
        return "softmax" if is_last else None
    names = {
        "Gelu": "gelu",
        "HardSilu": "hard_silu",
        "Relu": "relu",
        "Relu6": "relu6",
        "Sigmoid": "sigmoid",
        "Silu": "silu",
        "Softmax": "softmax",
        "Tanh": "tanh",
    }
    return names.get(kind)


def activation_name(function: Any) -> str:
    """Returns the name of an activation function, "" for one of one's own.

    Args:
        function: What a layer has as `activation`; None is linear.
    """
    name = keras.activations.serialize(function) if function else "linear"
    return name if isinstance(name, str) else ""


def is_fused(function: Any) -> bool:
    """Whether TFLite computes an activation in the operator before it.

    Args:
        function: What a layer has as `activation`.
    """
    return activation_name(function) in _FUSED_ACTIVATIONS


def is_joining(operation: Any) -> bool:
    """Whether an operation reads all its inputs at the scale of its output.

    Args:
        operation: A layer, or an operation of `keras.ops`.
    """
    return kind_of(operation) in _JOINING


def place(graph: Graph) -> Placement:
    """Finds the tensors that are int8 in a TFLite file of a graph.

    They are the inputs and outputs of all operators of the file. A
    BatchNormalization directly behind a convolution and the ReLU behind it are
    one operator with it. What only moves data has the range of its input, and
    what only a Concatenate reads is computed at the range of its output. What
    was moved and is read by a Concatenate and by others is rounded to the range
    of the Concatenate for all of them.

    Args:
        graph: Calls in which `Dense(activation="sigmoid")` and the like are
            two, see `codeq_keras.expansion`.

    Example:

    >>> from codeq_keras.graph import read_graph
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
        self.producers = {
            tensor.index: call
            for call in graph.calls
            for tensor in call.results
        }
        self.outputs = {t.index for t in tensors_in(graph.outputs)}
        self.sites: dict[int, Site] = {}
        # The tensor whose range a tensor has, where it has one.
        self.range_of: dict[int, int] = {}
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
            rounded=frozenset(self.range_of),
        )

    def _visit(self, call: Call) -> None:
        kind = kind_of(call.operation)
        source = call.inputs[0].index if call.inputs else -1
        if _is_vanishing(call) or _is_moving(call):
            for tensor in call.results:
                joining = self._joining_reader(tensor)
                if joining is not None and _is_moving(call):
                    # The converter has it so: it moves this rounding in front
                    # of what only moves data.
                    joined = joining.results[0].index
                    self._add(tensor, call.path, shared=joined)
                elif source in self.range_of:
                    self.range_of[tensor.index] = self.range_of[source]
            return
        shared = self.range_of.get(source) if kind in _SAME_SCALE else None
        fixed = _FIXED_RANGES.get(activation_of(call.operation) or "")
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
        if not tensor.is_float:
            return
        self.names[path] += 1
        if self.names[path] > 1:
            path = f"{path}_{self.names[path] - 1}"
        self.sites[tensor.index] = Site(tensor, path, fixed, shared, is_average)
        self.range_of[tensor.index] = tensor.index if shared is None else shared

    def _is_continued(self, call: Call, tensor: Tensor) -> bool:
        """Whether the operator of the file goes on behind this tensor."""
        kind = kind_of(call.operation)
        if kind not in _FUSING or not _is_linear(call.operation):
            return False
        following = self._only_reader(tensor)
        if following is None:
            return False
        if activation_of(following.operation) in _FUSED_ACTIVATIONS:
            return True
        is_norm = kind_of(following.operation) == "BatchNormalization"
        return is_norm and kind in _CONVOLUTIONS

    def _is_joined(self, call: Call, tensor: Tensor) -> bool:
        """Whether the range is that of the one call that reads a tensor."""
        following = self._only_reader(tensor, past_moving=True)
        if following is None or is_joining(call.operation):
            return False
        return is_joining(following.operation)

    def _joining_reader(self, tensor: Tensor) -> Call | None:
        """The first Concatenate among several calls that read a tensor."""
        readers = self.readers.get(tensor.index, [])
        if len(readers) == 1:
            return None
        return next((c for c in readers if is_joining(c.operation)), None)

    def _only_reader(
        self, tensor: Tensor, *, past_moving: bool = False
    ) -> Call | None:
        """The one call that reads a tensor, past those that vanish.

        Args:
            tensor: The tensor.
            past_moving: Look past those that only move data as well.
        """
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
    return kind in _VANISHING or is_linear


def _is_moving(call: Call) -> bool:
    kind = kind_of(call.operation)
    # A mask is a second input, and leaves values out.
    if kind not in _AVERAGING or len(call.inputs) != 1:
        return kind in _MOVING
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
            *_FUSED_ACTIVATIONS,
            *_FIXED_RANGES,
            *_SINGLE_ACTIVATIONS,
        }
    kind = kind_of(call.operation)
    if kind not in _SINGLE_OPERATORS:
        return False
    return kind not in _CONVOLUTIONS or is_fused(call.operation.activation)
