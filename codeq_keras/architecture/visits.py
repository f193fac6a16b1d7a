"""Walks through the layers of a model: where each is, and how it is called.

Reads layers through public Keras attributes only. Changes nothing.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras

Shape = tuple[int | None, ...]


def has_layer_list(layer: Any) -> bool:
    """Whether a layer is a sequential or functional model."""
    return isinstance(layer, keras.Sequential) or hasattr(layer, "operations")


def all_layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yields a layer and everything nested in it."""
    yield layer
    for child in _children(layer).values():
        yield from all_layers(child)


class Call(NamedTuple):
    """A call of a layer, as far as it is known."""

    shape: Shape | None = None  # None: the shape the layer was built with.
    is_reverse: bool | None = None  # Of a ReversibleEmbedding.


@dataclasses.dataclass(frozen=True)
class Visit:
    """A layer, where it is, and how it is called per call of the model."""

    layer: keras.Layer
    path: tuple[str, ...]
    calls: list[Call]
    repeats: int | None  # Time steps of an enclosing recurrent layer.


def visit_layers(model: keras.Layer) -> Iterator[Visit]:
    """Yields a model and all layers in it, shared ones more than once."""
    yield from _visit(model, path=(), calls=[Call()], repeats=1)


def _visit(
    layer: keras.Layer,
    path: tuple[str, ...],
    calls: list[Call],
    repeats: int | None,
) -> Iterator[Visit]:
    yield Visit(layer, path, calls, repeats)
    if isinstance(layer, keras.layers.RNN | keras.layers.TimeDistributed):
        steps = (build_shape(layer) or (None, None))[1]
        known = repeats is not None and steps is not None
        repeats = repeats * steps if known else None  # type: ignore[operator]
    known_calls = _functional_calls(layer)
    for name, child in _children(layer).items():
        inner = known_calls.get(child.name) or [_only_call(layer, child)]
        yield from _visit(child, (*path, name), inner * len(calls), repeats)


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
    query, built = shapes.get("query_shape"), build_shape(child)
    if query is None or built is None or None not in built[1:]:
        return None
    return (*query[:-1], *built[len(query) - 1 :])


def _only_call(parent: keras.Layer, child: keras.Layer) -> Call:
    is_reverse = False if isinstance(parent, keras.Sequential) else None
    return Call(_attention_shape(parent, child), is_reverse)


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the weights that are in no layer inside of a layer."""
    children = _children(layer).values()
    nested = {id(v) for child in children for v in child.variables}
    # Not `variables`: seeds and the state of metrics are no weights.
    return [v for v in layer.weights if id(v) not in nested]


def _functional_calls(layer: keras.Layer) -> dict[str, list[Call]]:
    """Every call of every layer of a functional model."""
    if not isinstance(layer, keras.Model) or isinstance(
        layer, keras.Sequential
    ):
        return {}
    try:
        config = layer.get_config()
    except NotImplementedError:  # A subclassed model without `get_config`.
        return {}
    calls: dict[str, list[Call]] = {}
    for entry in config.get("layers", []):
        nodes = entry.get("inbound_nodes") if isinstance(entry, dict) else None
        if nodes:
            calls[entry["name"]] = [
                Call(_first_shape(node), _is_reverse(node)) for node in nodes
            ]
    return calls


def _is_reverse(node: Any) -> bool:
    """Whether a call of a ReversibleEmbedding projects back."""
    if not isinstance(node, dict):
        return False
    args = list(node.get("args", ()))[1:]
    return bool([*args, node.get("kwargs", {}).get("reverse")][0])


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


def build_shape(layer: keras.Layer) -> Shape | None:
    """Returns the shape of the input that a layer was built with."""
    config = layer.get_build_config() or {}
    shape = config.get("input_shape")
    if shape is None or isinstance(shape[0], list | tuple):
        return None  # Several inputs: no layer with a kernel has them.
    return tuple(shape)
