"""Finds the kernels of a model and counts their multiply-accumulates.

Reads layers through public Keras attributes only. Changes nothing.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import keras

# Dense, Conv*, ConvTranspose, EinsumDense and custom layers name it "kernel";
# SeparableConv "depthwise_kernel" and "pointwise_kernel"; recurrent cells
# "kernel" and "recurrent_kernel"; Embedding "embeddings".
KERNEL_NAME = re.compile(r"(.+_)?kernel|embeddings")

Shape = tuple[int | None, ...]


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
    """

    path: str
    variable: keras.Variable
    layer: keras.Layer
    output_axes: tuple[int, ...]
    num_macs: int | None

    @property
    def num_weights(self) -> int:
        """Number of weights."""
        return math.prod(self.variable.shape)


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
    kernels: list[Kernel] = []
    seen: set[int] = set()
    paths: dict[str, int] = {}
    for visit in _visit(model, path=(), calls=[None], repeats=1):
        for variable in _own_variables(visit.layer):
            is_kernel = KERNEL_NAME.fullmatch(variable.name) is not None
            if not is_kernel or len(variable.shape) < 2 or id(variable) in seen:
                continue
            seen.add(id(variable))
            path = "/".join([*visit.path, variable.name])
            paths[path] = paths.get(path, 0) + 1
            if paths[path] > 1:
                path = f"{path}_{paths[path] - 1}"
            kernels.append(
                Kernel(
                    path=path,
                    variable=variable,
                    layer=visit.layer,
                    output_axes=output_axes(visit.layer, variable),
                    num_macs=_num_macs(visit, variable),
                )
            )
    return kernels


def has_layer_list(layer: Any) -> bool:
    """Whether a layer is a sequential or functional model."""
    return isinstance(layer, keras.Sequential) or hasattr(layer, "operations")


def all_layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yields a layer and everything nested in it."""
    yield layer
    for child in _children(layer).values():
        yield from all_layers(child)


@dataclasses.dataclass(frozen=True)
class _Visit:
    """A layer, where it is, and how it is called per call of the model."""

    layer: keras.Layer
    path: tuple[str, ...]
    calls: list[Shape | None]  # None: the shape the layer was built with.
    repeats: int | None  # Time steps of an enclosing recurrent layer.


def _visit(
    layer: keras.Layer,
    path: tuple[str, ...],
    calls: list[Shape | None],
    repeats: int | None,
) -> Iterator[_Visit]:
    yield _Visit(layer, path, calls, repeats)
    if isinstance(layer, keras.layers.RNN | keras.layers.TimeDistributed):
        steps = (_build_shape(layer) or (None, None))[1]
        known = repeats is not None and steps is not None
        repeats = repeats * steps if known else None  # type: ignore[operator]
    call_shapes = _functional_call_shapes(layer)
    for name, child in _children(layer).items():
        shapes = call_shapes.get(child.name) or [_attention_shape(layer, child)]
        yield from _visit(child, (*path, name), shapes * len(calls), repeats)


def _children(layer: keras.Layer) -> dict[str, keras.Layer]:
    """The layers directly inside a layer, under names that survive a copy.

    A sequential or functional model keeps the names of its layers. Elsewhere
    Keras numbers layers without a name anew in every copy, so such a layer
    goes by the attribute that holds it.
    """
    if has_layer_list(layer):
        return _unique((child.name, child) for child in layer.layers)
    found: dict[int, tuple[str, keras.Layer]] = {}
    # Public attributes first: the private ones repeat them in lists.
    for name, value in sorted(vars(layer).items(), key=_is_private):
        for suffix, child in _layers_in(value):
            if not _is_numbered(child):
                label = child.name
            else:
                label = name.lstrip("_") + suffix
            found.setdefault(id(child), (label, child))
    return _unique(found.values())


def _is_private(item: tuple[str, Any]) -> bool:
    return item[0].startswith("_")


def _layers_in(value: Any) -> Iterator[tuple[str, keras.Layer]]:
    if isinstance(value, keras.Layer):
        yield "", value
    elif isinstance(value, dict | list | tuple):
        if not isinstance(value, dict):
            value = dict(enumerate(value))
        for key, item in value.items():
            for suffix, layer in _layers_in(item):
                yield f"_{key}{suffix}", layer


def _is_numbered(layer: keras.Layer) -> bool:
    """Whether Keras made up the name from the class, as in "conv2d_3"."""
    words = re.sub(r"[\W_]|\d+$", "", layer.name).lower()
    return words == re.sub(r"[\W_]|\d+$", "", type(layer).__name__).lower()


def _unique(
    items: Iterable[tuple[str, keras.Layer]],
) -> dict[str, keras.Layer]:
    named: dict[str, keras.Layer] = {}
    for name, layer in items:
        label, count = name, 1
        while label in named:
            label, count = f"{name}_{count}", count + 1
        named[label] = layer
    return named


def _attention_shape(parent: keras.Layer, child: keras.Layer) -> Shape | None:
    """Input shape of an attention's output projection, which Keras omits."""
    shapes = (parent.get_build_config() or {}).get("shapes_dict") or {}
    query, built = shapes.get("query_shape"), _build_shape(child)
    if query is None or built is None or None not in built[1:]:
        return None
    return (*query[:-1], *built[len(query) - 1 :])


def _own_variables(layer: keras.Layer) -> list[keras.Variable]:
    children = _children(layer).values()
    nested = {id(v) for child in children for v in child.variables}
    return [v for v in layer.variables if id(v) not in nested]


def _functional_call_shapes(layer: keras.Layer) -> dict[str, list[Any]]:
    """Input shapes of every call of every layer of a functional model."""
    if not isinstance(layer, keras.Model) or isinstance(
        layer, keras.Sequential
    ):
        return {}
    try:
        config = layer.get_config()
    except NotImplementedError:  # A subclassed model without `get_config`.
        return {}
    calls: dict[str, list[Any]] = {}
    for entry in config.get("layers", []):
        nodes = entry.get("inbound_nodes") if isinstance(entry, dict) else None
        if nodes:
            calls[entry["name"]] = [_first_shape(node) for node in nodes]
    return calls


def _first_shape(node: Any) -> Shape | None:
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            return tuple(node["config"]["shape"])
        node = list(node.values())
    if isinstance(node, list | tuple):
        for item in node:
            shape = _first_shape(item)
            if shape is not None:
                return shape
    return None


def _build_shape(layer: keras.Layer) -> Shape | None:
    config = layer.get_build_config() or {}
    shape = config.get("input_shape")
    if shape is None or isinstance(shape[0], list | tuple):
        return None  # Several inputs: no layer with a kernel has them.
    return tuple(shape)


def _num_macs(visit: _Visit, variable: keras.Variable) -> int | None:
    layer = visit.layer
    if isinstance(layer, keras.layers.Embedding):
        return 0  # A look-up multiplies nothing.
    if visit.repeats is None:
        return None
    total = 0
    for shape in visit.calls:
        # The build shape of a nested layer is exact; a call's shape differs
        # from it only where a shared layer sees several sizes.
        shape = shape or _build_shape(layer)
        positions = num_positions(layer, variable, shape)
        if positions is None:
            return None
        total += positions
    return total * visit.repeats * math.prod(variable.shape)


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
    name = type(layer).__name__
    if name.startswith("Depthwise") or variable.name == "depthwise_kernel":
        return rank - 2, rank - 1  # Input channel and depth multiplier.
    if name.endswith("Transpose"):
        return (rank - 2,)
    return (rank - 1,)
