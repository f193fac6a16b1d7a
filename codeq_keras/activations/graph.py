"""ActivationGraph: runs a model with its activations quantized."""

from collections.abc import Callable
from typing import Any

import keras

from codeq_keras.activations.placement import Placement, Site, place
from codeq_keras.activations.quantizer import ActivationQuantizer
from codeq_keras.activations.splitting import expand
from codeq_keras.architecture.calls import Tensor, read_graph, run_graph


class ActivationGraph:
    """A model's graph with an `ActivationQuantizer` at every site.

    It owns the quantizers and shares the layers of the model. No Keras layer,
    so that a layer that holds one does not track the model's layers twice.

    Attributes:
        graph: The calls, composite layers split.
        placement: The sites.
        quantizers: By path, one per site that has its own.
        twins: Pairs `(copy, original)` of variables: layers that were split
            compute with copies, which must be given the original's value.

    Args:
        model: Built Keras model. Not changed.
        rounds: Whether activations are quantized. Without, the graph has no
            site and only shows what its calls compute.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,), name="x"), keras.layers.Dense(3, name="head")]
    ... )
    >>> list(ActivationGraph(model).quantizers)
    ['x', 'head']
    """

    def __init__(self, model: keras.Model, *, rounds: bool = True) -> None:
        expanded = expand(read_graph(model))
        self.graph = expanded.graph
        self.twins = expanded.twins
        self._originals = {id(twin): original for twin, original in self.twins}
        self.placement: Placement = place(self.graph)
        self.quantizers: dict[str, ActivationQuantizer] = {}
        sites = self.placement.sites if rounds else ()
        self._sites = {site.tensor.index: site for site in sites}
        for site in sites:
            if site.shared is None:
                quantizer = ActivationQuantizer(
                    fixed_range=site.fixed_range,
                    name=site.path.replace("/", "_"),
                )
                quantizer.build()
                self.quantizers[site.path] = quantizer

    def __call__(
        self,
        inputs: Any,
        training: bool | None = None,
        *,
        seen: dict[int, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Returns the outputs; in training, ranges and layers learn."""
        given = [key for key, value in kwargs.items() if value is not None]
        if given:
            raise ValueError(
                "With `activation_bit_width` or `channel_multiple` a model is "
                f"called on its inputs and `training` only. Received: {given}."
            )

        return self.run(inputs, training=training, observe=training, seen=seen)

    def run(
        self,
        inputs: Any,
        *,
        training: Any,
        observe: Any,
        seen: dict[int, Any] | None = None,
    ) -> Any:
        """Returns the outputs: layers and ranges learn by their own flags.

        `seen` gets the value of each tensor, by its index.
        """

        def rounded(site: Site, path: str, value: Any) -> Any:
            quantizer = self.quantizers[path]
            if site.shared is None or quantizer.fixed_range is not None:
                return quantizer(value, training=observe)
            if site.is_average:
                return quantizer.round_average(value)
            return quantizer.round_joined(value, training=observe)

        at_sites = self.at_sites(rounded)

        def after(tensor: Tensor, value: Any) -> Any:
            value = at_sites(tensor, value)
            if seen is not None:
                seen[tensor.index] = value
            return value

        return run_graph(self.graph, inputs, training=training, after=after)

    def reads(self) -> dict[int, list[int]]:
        """Returns the tensors that each variable of the model meets.

        By the `id` of the variable, the index of the first input of each call
        of its layer.
        """
        found: dict[int, list[int]] = {}
        for call in self.graph.calls:
            for variable in getattr(call.operation, "variables", ()):
                if call.inputs:
                    held = found.setdefault(id(self.original(variable)), [])
                    held.append(call.inputs[0].index)
        return found

    def visible_variables(self) -> list[keras.Variable]:
        """Returns the variables of calls whose inputs are quantized."""
        inner = set(self.placement.inner)
        found = [
            variable
            for call in self.graph.calls
            if call.path not in inner
            and call.inputs
            and call.inputs[0].index in self.placement.rounded
            for variable in getattr(call.operation, "variables", ())
        ]
        return [self.original(variable) for variable in found]

    def original(self, variable: Any) -> Any:
        """Returns the variable of the model that a twin copies, or itself."""
        return self._originals.get(id(variable), variable)

    def at_sites(
        self, function: Callable[[Site, str, Any], Any]
    ) -> Callable[[Tensor, Any], Any]:
        """Returns a function for `run_graph` that acts at the sites only."""

        def after(tensor: Tensor, value: Any) -> Any:
            site = self._sites.get(tensor.index)
            if site is None:
                return value
            owner = site if site.shared is None else self._sites[site.shared]
            return function(site, owner.path, value)

        return after
