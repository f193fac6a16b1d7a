"""Finds the kernels of a model and counts their multiply-accumulates.

Reads layers through public Keras attributes only. Changes nothing.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

from codeq_keras.architecture.visits import (
    Shape,
    Visit,
    build_shape,
    own_variables,
    visit_layers,
)

# Dense, Conv*, ConvTranspose, EinsumDense and custom layers name it "kernel";
# SeparableConv "depthwise_kernel" and "pointwise_kernel"; recurrent cells
# "kernel" and "recurrent_kernel"; Embedding "embeddings", ReversibleEmbedding
# "reverse_embeddings".
KERNEL_NAME = re.compile(r"(.+_)?kernel|(reverse_)?embeddings")

# Of any rank, as in attention: biases, gains and statistics, which no report
# counts.
_UNCOUNTED_NAME = re.compile(r"(.+_)?(bias|beta|gamma)|moving_(mean|variance)")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One weight tensor that a quantizer can be put in front of.

    Attributes:
        path: Unique within the model and the same in every copy of it: the
            names of the layers that hold the kernel, outermost first, then
            the variable's name, joined by "/". A layer without a name of its
            own, in a subclassed model, goes by its attribute.
        variable: The Keras variable, of rank 2 or more.
        layer: The layer that owns the variable.
        output_axes: Axes of the kernel that number the output channels.
        num_macs: Multiply-accumulates per sample, zeros included; None where
            an input size is not known before a call.
        gate: Removes channels of the kernel, see `quantizers.kernel_gate`;
            None where it keeps all.
    """

    path: str
    variable: keras.Variable
    layer: keras.Layer
    output_axes: tuple[int, ...]
    num_macs: int | None
    gate: Any = dataclasses.field(default=None, kw_only=True)

    @property
    def num_weights(self) -> int:
        """Number of weights."""
        return math.prod(self.variable.shape)


@dataclasses.dataclass(frozen=True)
class FloatWeight(Kernel):
    """A weight tensor that no quantizer is put in front of.

    Attributes:
        reason: Why it stays in float, in a few words.
    """

    reason: str


def find_kernels(model: keras.Layer) -> list[Kernel]:
    """Returns the kernels of a built model in the order of its layers.

    A shared layer is listed once, with the multiply-accumulates of all its
    calls in a functional model. In a subclassed model a layer counts once,
    with the input shape it was built with.

    Example:

    >>> inputs = keras.Input((8, 8, 3))
    >>> outputs = keras.layers.Conv2D(4, 3, name="stem")(inputs)
    >>> [kernel] = find_kernels(keras.Model(inputs, outputs))
    >>> kernel.path, kernel.num_macs == (3 * 3 * 3 * 4) * (6 * 6)
    ('stem/kernel', True)
    """
    return [
        Kernel(
            path=path,
            variable=variable,
            layer=visit.layer,
            output_axes=output_axes(visit.layer, variable),
            num_macs=_num_macs(visit, variable),
        )
        for visit, variable, path in _find(model, _is_kernel)
    ]


def find_float_weights(model: keras.Layer) -> list[FloatWeight]:
    """Returns the weights that are no kernels, in the order of the layers.

    All floats of rank 2 or more, trained or not, and kernels of rank 1, but
    for biases, the gains of normalizations and their statistics. Their
    multiply-accumulates count where a tensor can be multiplied with as by
    `x @ w`: an axis, not the last, has the length of the last axis of the
    input, or of a recurrent state.

    Example:

    >>> inputs = keras.Input((8, 4))
    >>> outputs = keras.layers.PReLU(name="act")(inputs)
    >>> [weight] = find_float_weights(keras.Model(inputs, outputs))
    >>> weight.path, weight.num_macs, weight.reason
    ('act/alpha', 0, 'used element by element')
    """
    found = []
    for visit, variable, path in _find(model, _is_float_weight):
        reason = _float_reason(visit, variable)
        found.append(
            FloatWeight(
                path=path,
                variable=variable,
                layer=visit.layer,
                output_axes=(len(variable.shape) - 1,),
                num_macs=_num_macs(visit, variable) if reason == _NAME else 0,
                reason=reason,
            )
        )
    return found


def _is_kernel(variable: keras.Variable) -> bool:
    is_named = KERNEL_NAME.fullmatch(variable.name) is not None
    return is_named and len(variable.shape) >= 2


def _is_float_weight(variable: keras.Variable) -> bool:
    dtype = keras.backend.standardize_dtype(variable.dtype)
    if _is_kernel(variable) or "float" not in dtype:
        return False
    if KERNEL_NAME.fullmatch(variable.name):
        return True
    is_counted = _UNCOUNTED_NAME.fullmatch(variable.name) is None
    return is_counted and len(variable.shape) >= 2


_RANK = "has fewer than two axes"
_ELEMENTWISE = "used element by element"
_NAME = "not called 'kernel'"
_UNKNOWN = "not called 'kernel', not in the BOPs"


def _float_reason(visit: Visit, variable: keras.Variable) -> str:
    layer, shape = visit.layer, tuple(variable.shape)
    if len(shape) < 2:
        return _RANK
    states = getattr(layer, "state_size", ())
    read = {n for n in keras.tree.flatten(states) if isinstance(n, int)}
    for call in visit.calls:
        inputs = call.shape or build_shape(layer) or (None,)
        read.add(inputs[-1] or 0)
        is_square = len(shape) == 2 and shape[0] == shape[1]
        if _broadcasts(shape, inputs[1:]) and not is_square:
            return _ELEMENTWISE
    return _NAME if (read - {0}) & {*shape[:-1]} else _UNKNOWN


def _broadcasts(shape: Shape, inputs: Shape) -> bool:
    """Whether `inputs + weights` has the shape of the inputs."""
    leading = len(shape) - len(inputs)
    if not inputs or any(size != 1 for size in shape[: max(leading, 0)]):
        return False
    pairs = zip(reversed(shape), reversed(inputs), strict=False)
    return all(size in (1, other) for size, other in pairs)


def _find(
    model: keras.Layer, is_wanted: Callable[[keras.Variable], bool]
) -> Iterator[tuple[Visit, keras.Variable, str]]:
    """Yields where a variable is, the variable, and its unique path."""
    seen: set[int] = set()
    paths: dict[str, int] = {}
    for visit in visit_layers(model):
        for variable in own_variables(visit.layer):
            if not is_wanted(variable) or id(variable) in seen:
                continue
            seen.add(id(variable))
            path = "/".join([*visit.path, variable.name])
            paths[path] = paths.get(path, 0) + 1
            if paths[path] > 1:
                path = f"{path}_{paths[path] - 1}"
            yield visit, variable, path


def _num_macs(visit: Visit, variable: keras.Variable) -> int | None:
    layer = visit.layer
    if isinstance(layer, keras.layers.ReversibleEmbedding):
        return _num_macs_reversed(visit, variable)
    if isinstance(layer, keras.layers.Embedding):
        return 0  # A look-up multiplies nothing.
    if visit.repeats is None:
        return None
    total = 0
    for call in visit.calls:
        # The build shape of a nested layer is exact; a call's shape differs
        # from it only where a shared layer sees several sizes.
        shape = call.shape or build_shape(layer)
        positions = num_positions(layer, variable, shape)
        if positions is None:
            return None
        total += positions
    return total * visit.repeats * math.prod(variable.shape)


def _num_macs_reversed(visit: Visit, variable: keras.Variable) -> int | None:
    """Of the projections only; a call that is not known counts as one."""
    if variable.name == "embeddings" and not visit.layer.tie_weights:
        return 0
    total = 0
    for call in visit.calls:
        if call.is_reverse is False:
            continue
        # Built on tokens, which have no axis of features.
        built = build_shape(visit.layer) or (None, None)
        sizes = call.shape[1:-1] if call.shape else built[1:]
        positions = _product([visit.repeats, *sizes])
        if positions is None:
            return None
        total += positions
    return total * math.prod(variable.shape)


def num_positions(layer: Any, variable: Any, shape: Shape | None) -> int | None:
    """Returns how often each weight of a kernel is used per sample and call.

    None where it depends on a size that is not known. `shape` is that of the
    layer's input; the layer may be of `tf_keras`.

    Example:

    >>> layer = keras.layers.Conv2D(4, 3)
    >>> layer.build((None, 8, 8, 3))
    >>> num_positions(layer, layer.kernel, (None, 8, 8, 3)) == 6 * 6
    True
    """
    if shape is None:
        return None
    if isinstance(layer, keras.layers.EinsumDense):
        inputs, kernel = layer.equation.split("->")[0].split(",")
        # "...x,xy": the ellipsis stands for all axes the letters leave over.
        letters = inputs.replace("...", "")
        spare = "." * (len(shape) - len(letters))
        labels = inputs.replace("...", spare)
        free = [
            size
            for label, size in zip(labels, shape, strict=True)
            if label not in kernel or label == "."
        ]
        return _product(free[1:])
    rank = len(variable.shape) - 2
    if rank == 0 or not hasattr(layer, "data_format"):
        return _product(shape[1:-1])  # Dense, recurrent and custom kernels.
    transposed = type(layer).__name__.endswith("Transpose")
    if not transposed:  # Each weight meets every output position.
        shape = layer.compute_output_shape(shape)
        if isinstance(shape[0], list | tuple):
            shape = tuple(shape[0])  # A recurrent cell adds its states.
    first = 2 if layer.data_format == "channels_first" else 1
    return _product(shape[first : first + rank])


def _product(sizes: Iterable[int | None]) -> int | None:
    sizes = list(sizes)
    return None if None in sizes else math.prod(sizes)  # type: ignore[arg-type]


def output_axes(layer: Any, variable: Any) -> tuple[int, ...]:
    """Returns the axes of a kernel that number the output channels.

    Example:

    >>> layer = keras.layers.DepthwiseConv2D(3)
    >>> layer.build((None, 8, 8, 3))
    >>> output_axes(layer, layer.kernel)
    (2, 3)
    """
    rank = len(variable.shape)
    if isinstance(layer, keras.layers.EinsumDense):
        left, output = layer.equation.split("->")
        labels = left.split(",")[1]
        return tuple(i for i, label in enumerate(labels) if label in output)
    if _is_depthwise(layer, variable):
        return rank - 2, rank - 1  # Input channel and depth multiplier.
    if type(layer).__name__.endswith("Transpose"):
        return (rank - 2,)
    return (rank - 1,)


def input_axes(layer: Any, variable: Any) -> tuple[int, ...]:
    """Returns the axes of a kernel that number the input channels.

    An output sums over them. Depthwise kernels and look-ups have none.

    Example:

    >>> layer = keras.layers.Conv2DTranspose(3, 2)
    >>> layer.build((None, 8, 8, 5))
    >>> tuple(layer.kernel.shape), input_axes(layer, layer.kernel)
    ((2, 2, 3, 5), (3,))
    """
    is_lookup = variable.name.endswith("embeddings")
    if is_lookup or _is_depthwise(layer, variable):
        return ()
    rank = len(variable.shape)
    outputs = output_axes(layer, variable)
    if isinstance(layer, keras.layers.EinsumDense):
        return tuple(i for i in range(rank) if i not in outputs)
    # The axes in front are positions.
    return tuple(i for i in (rank - 2, rank - 1) if i not in outputs)


def _is_depthwise(layer: Any, variable: Any) -> bool:
    is_part = variable.name == "depthwise_kernel"
    return is_part or type(layer).__name__.startswith("Depthwise")
