"""RangedModel: a plain model that rounds to its trained activation ranges."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.activations.operators import (
    is_joining,
    is_one_hot,
)
from codeq_keras.activations.placement import Site
from codeq_keras.activations.quantizer import ActivationRange, rounded_average
from codeq_keras.architecture.calls import Call, Tensor, kind_of, run_graph

Visitor = Callable[[str, np.ndarray, ActivationRange], np.ndarray]
# From an operation and the channels it reads to another operation, or None.
Replace = Callable[[Any, int], Callable[[Any], Any] | None]


class RangedModel:
    """Computes a plain model with its activations fake-quantized.

    The operations tell a converter the range of each activation, so that it
    needs no samples.

    Args:
        plain: Built model without quantizers. Not changed.
        ranges: The range of each activation by path, from
            `activation_ranges`; None leaves an activation in float.
        replace: Takes an operation that reads a rounded tensor, and the number
            of its channels. Returns the operation to compute in its place, or
            None to keep it.
    """

    def __init__(
        self,
        plain: keras.Model,
        ranges: Mapping[str, ActivationRange | None],
        replace: Replace = lambda operation, channels: None,
    ) -> None:
        self._ranges = ranges
        self._sites = ActivationGraph(plain)
        for twin, original in self._sites.twins:
            twin.assign(original)
        calls = [self._replaced(c, replace) for c in self._sites.graph.calls]
        self._graph = dataclasses.replace(self._sites.graph, calls=tuple(calls))
        twins = [twin for twin, _ in self._sites.twins]
        self.variables = [*plain.weights, *twins]

    def __call__(self, *values: Any) -> Any:
        """Returns the outputs for one tensor per input."""
        return self._run(values, self._rounded)

    def visit(self, function: Visitor, *values: Any) -> None:
        """Computes the outputs, with a function at each range.

        Args:
            function: Called in the order of the graph with the path of an
                activation, its rounded value as an array, and its range.
                Returns the value that the model goes on with.
            *values: One tensor per input.
        """

        def visited(site: Site, path: str, value: Any) -> Any:
            held = self._ranges[path]
            if held is None:
                return value
            is_fixed = self._sites.quantizers[path].fixed_range is not None
            # A file averages the codes whatever stands here, so this is only
            # for the comparison.
            if site.is_average and not is_fixed:
                rounded = rounded_average(value, held.low, held.high)
            else:
                rounded = _fake_quantized(value, held)
            array = ops.convert_to_numpy(rounded)
            return ops.convert_to_tensor(function(site.path, array, held))

        self._run(values, visited)

    @property
    def unseen(self) -> list[str]:
        """Paths of activations that saw no batch in training."""
        return [path for path, held in self._ranges.items() if held is None]

    @property
    def dead(self) -> list[str]:
        """Paths of activations that were always zero in training."""
        return [path for path, held in self._ranges.items() if _is_dead(held)]

    @property
    def sums(self) -> list[tuple[list[str], str]]:
        """The paths of what each Add and Subtract reads, and of its result."""
        calls = [
            call
            for call in self._sites.graph.calls
            if kind_of(call.operation) in ("Add", "Subtract")
        ]
        found = [
            ([self._owner(t) for t in call.inputs], self._owner_after(call))
            for call in calls
        ]
        return [
            ([path for path in paths if path is not None], result)
            for paths, result in found
            if result is not None
        ]

    def _owner(self, tensor: Tensor) -> str | None:
        """The path whose range a tensor has."""
        index = self._sites.placement.rounded.get(tensor.index)
        sites = self._sites.placement.sites
        return next((s.path for s in sites if s.tensor.index == index), None)

    def _owner_after(self, call: Call) -> str | None:
        """The path whose range the operator has that computes a call."""
        tensor = call.results[0]
        if tensor.index in self._sites.placement.rounded:
            return self._owner(tensor)
        # An activation, or a Concatenate, that goes on with it.
        following = (c for c in self._sites.graph.calls if tensor in c.inputs)
        after = next(following, None)
        return None if after is None else self._owner_after(after)

    @property
    def inner(self) -> list[str]:
        """Paths of layers with activations that have no trained range."""
        return list(self._sites.placement.inner)

    @property
    def joined_to_prescribed(self) -> list[str]:
        """Paths of joins that read a sigmoid, softmax or tanh among others."""
        sites = self._sites.placement.sites
        prescribed = {s.tensor.index for s in sites if s.fixed_range}
        return [
            call.path
            for call in self._sites.graph.calls
            if is_joining(call.operation)
            and prescribed & {tensor.index for tensor in call.inputs}
        ]

    def _run(
        self, values: Sequence[Any], at_site: Callable[[Site, str, Any], Any]
    ) -> Any:
        inputs = keras.tree.pack_sequence_as(self._graph.inputs, list(values))
        return run_graph(
            self._graph,
            inputs,
            training=False,
            after=self._sites.at_sites(at_site),
        )

    def _rounded(self, site: Site, path: str, value: Any) -> Any:
        held = self._ranges[path]
        return value if held is None else _fake_quantized(value, held)

    def _replaced(self, call: Call, replace: Replace) -> Call:
        if is_one_hot(call.operation):
            one_hot = _through_bool(call.operation)
            return dataclasses.replace(call, operation=one_hot)
        tensor = call.inputs[0] if call.inputs else None
        if tensor is None or tensor.index not in self._sites.placement.rounded:
            return call
        operation = replace(call.operation, tensor.shape[-1] or 1)
        if operation is None:
            return call
        return dataclasses.replace(
            call, operation=operation, args=(tensor,), kwargs={}
        )


def _through_bool(one_hot: Any) -> Callable[..., Any]:
    """The same zeros and ones: the converter takes no range next to ONE_HOT."""

    def cast(*args: Any, **kwargs: Any) -> Any:
        outputs = one_hot(*args, **kwargs)
        return ops.cast(ops.cast(outputs, "bool"), outputs.dtype)

    return cast


def _is_dead(held: ActivationRange | None) -> bool:
    return held is not None and held.is_dead


def _fake_quantized(value: Any, held: ActivationRange) -> Any:
    return keras.quantizers.fake_quant_with_min_max_vars(
        value, np.float32(held.low), np.float32(held.high), num_bits=8
    )
