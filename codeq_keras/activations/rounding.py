"""rounded_model: a plain Keras model that computes with rounded activations."""

from typing import Any

import keras

from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.activations.placement import Site
from codeq_keras.activations.quantizer import (
    ActivationQuantizer,
    average_at,
    usable_range,
)
from codeq_keras.architecture.calls import Tensor, run_graph


def rounded_model(plain: keras.Model, trained: ActivationGraph) -> keras.Model:
    """Returns a functional model of the layers of `plain`, which it takes over.

    It rounds where and as `trained` does, by operations of Keras alone.
    """
    graph = ActivationGraph(plain)
    for twin, original in graph.twins:
        twin.assign(original)
    for call in graph.graph.calls:
        if "/" in call.path:  # Names are unique in a nested model only.
            call.operation.name = call.path.replace("/", "_")
    names = iter(graph.graph.names)
    inputs = keras.tree.map_structure(
        lambda tensor: _input(tensor, next(names)), graph.graph.inputs
    )

    def rounded(site: Site, path: str, value: Any) -> Any:
        return _rounded(site, trained.quantizers[path], value)

    outputs = run_graph(
        graph.graph, inputs, training=None, after=graph.at_sites(rounded)
    )
    return keras.Model(inputs, outputs, name=plain.name)


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
