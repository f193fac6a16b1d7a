"""rounded_model: a plain Keras model that computes with rounded activations."""

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import keras

from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.activations.placement import Site
from codeq_keras.activations.quantizer import (
    ActivationQuantizer,
    average_at,
    usable_range,
)
from codeq_keras.architecture.calls import Graph, Tensor, run_graph


def rounded_model(plain: keras.Model, trained: ActivationGraph) -> keras.Model:
    """Returns a functional model of the layers of `plain`, which it takes over.

    It rounds where and as `trained` does, by operations of Keras alone.
    """
    graph = ActivationGraph(plain)
    for twin, original in graph.twins:
        twin.assign(original)
    output_names = getattr(plain, "output_names", None) or []
    _name_calls(graph.graph, reserved=output_names)
    names = iter(graph.graph.names)
    inputs = keras.tree.map_structure(
        lambda tensor: _input(tensor, next(names)), graph.graph.inputs
    )

    def rounded(site: Site, path: str, value: Any) -> Any:
        return _rounded(site, trained.quantizers[path], value)

    outputs = run_graph(
        graph.graph, inputs, training=None, after=graph.at_sites(rounded)
    )
    if output_names:
        outputs = _named(outputs, output_names, graph.graph)
    return keras.Model(inputs, outputs, name=plain.name)


def _name_calls(graph: Graph, reserved: Collection[str]) -> None:
    """Names each operation by its path; those of outputs make room for them.

    Names are unique in a nested model only, so the outer ones are given first.
    """
    taken = {*graph.names, *reserved}
    named = set[int]()
    for call in sorted(graph.calls, key=lambda call: call.path.count("/")):
        if id(call.operation) not in named:
            named.add(id(call.operation))
            call.operation.name = _free(call.path.replace("/", "_"), taken)


def _named(outputs: Any, names: Sequence[str], graph: Graph) -> Any:
    """Passes each output through a layer of its name, for losses by name.

    Keras takes the name of the last operation, and saves names of layers only.
    """
    taken = {*graph.names, *(call.operation.name for call in graph.calls)}
    found: dict[int, Any] = {}
    flat = keras.tree.flatten(outputs)
    for tensor, name in zip(flat, names, strict=True):
        if id(tensor) not in found:
            dtype = tensor.dtype if "float" in tensor.dtype else None
            layer = keras.layers.Identity(name=_free(name, taken), dtype=dtype)
            found[id(tensor)] = layer(tensor)
    return keras.tree.map_structure(lambda t: found[id(t)], outputs)


def _free(name: str, taken: set[str]) -> str:
    """The name, numbered if it is taken; takes it."""
    numbers = (f"{name}_{number}" for number in itertools.count(1))
    found = next(n for n in itertools.chain([name], numbers) if n not in taken)
    taken.add(found)
    return found


def _input(tensor: Tensor, name: str) -> Any:
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)


def _rounded(site: Site, quantizer: ActivationQuantizer, value: Any) -> Any:
    if not quantizer.has_range:
        return value
    is_fixed = quantizer.fixed_range is not None
    held = quantizer.fixed_range or (quantizer.low, quantizer.high)
    low, high = (float(bound) for bound in usable_range(*held))
    if site.is_average and not is_fixed:
        return average_at(value, low, high)
    return keras.quantizers.fake_quant_with_min_max_vars(
        value, low, high, num_bits=8
    )
