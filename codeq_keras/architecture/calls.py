"""Reads a model as one flat list of calls, and runs such a list.

Nested models are unfolded and shared layers keep their weights. Decides
nothing about quantization.
"""

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from codeq_keras.architecture.visits import has_layer_list


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A value in a graph.

    Attributes:
        index: Its number, unique in the graph.
        shape: Its shape, with None for sizes that are left open.
        dtype: Its type, such as "float32".
    """

    index: int
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def is_float(self) -> bool:
        """Whether it holds real numbers."""
        return "float" in self.dtype


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer or of an operation of `keras.ops`.

    Attributes:
        operation: The layer or operation.
        path: Names of the nested models around it and its own, joined by "/".
        args: Positional arguments; `Tensor` where the graph computes them.
        kwargs: Keyword arguments, likewise.
        outputs: `Tensor`, or a structure of them.
    """

    operation: Any
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors it reads, in order."""
        return tensors_in((self.args, self.kwargs))

    @property
    def results(self) -> list[Tensor]:
        """The tensors it computes."""
        return tensors_in(self.outputs)


@dataclasses.dataclass(frozen=True)
class Graph:
    """A model as a list of calls.

    Attributes:
        inputs: The structure that the model is called on.
        names: The name of each input, in flat order.
        calls: All calls, each after those it depends on.
        outputs: The structure that the model returns.
        nested: Each call of a nested model, which `calls` unfolds: the model
            and the tensors that it is called on, in flat order.
    """

    inputs: Any
    names: tuple[str, ...]
    calls: tuple[Call, ...]
    outputs: Any
    nested: tuple[tuple[keras.Model, tuple[Tensor, ...]], ...] = ()


def tensors_in(structure: Any) -> list[Tensor]:
    """Returns the tensors in a nested structure, in order."""
    leaves = keras.tree.flatten(structure)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def kind_of(operation: Any) -> str:
    """Returns the class name of an operation of Keras, or "" for others.

    A subclass may compute anything. A class of another module that computes
    the same says so by its attribute `operator_kind`.

    Example:

    >>> kind_of(keras.layers.ReLU())
    'ReLU'
    """
    if type(operation).__module__.split(".")[0] == "keras":
        return type(operation).__name__
    return getattr(type(operation), "operator_kind", "")


def read_graph(model: keras.Model) -> Graph:
    """Returns the calls of a model, those of nested models included.

    A model whose graph is not known, a subclass of `keras.Model` with its own
    `call`, is a single call.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(3, name="a"),
    ...      keras.Sequential([keras.layers.ReLU(name="b")], name="inner")]
    ... )
    >>> [call.path for call in read_graph(model).calls]
    ['a', 'inner/b']
    """
    inputs, symbolic_calls, outputs = _record(model)
    numbers = itertools.count()
    values = {id(t): _tensor(t, numbers) for t in keras.tree.flatten(inputs)}
    nested: list[tuple[keras.Model, tuple[Tensor, ...]]] = []
    calls = list(_flat_calls(symbolic_calls, values, numbers, nested, path=()))

    return Graph(
        inputs=_translate(inputs, values),
        names=tuple(t.name for t in keras.tree.flatten(inputs)),
        calls=tuple(calls),
        outputs=_translate(outputs, values),
        nested=tuple(nested),
    )


def run_graph(
    graph: Graph,
    inputs: Any,
    *,
    training: bool | None = None,
    after: Callable[[Tensor, Any], Any] | None = None,
) -> Any:
    """Computes the outputs of a graph.

    `training` is passed to every layer that takes it and was called without.
    `after` maps a tensor of the graph and its value to the value to use.
    """
    values: dict[int, Any] = {}

    def keep(tensor: Any, value: Any) -> None:
        if isinstance(tensor, Tensor):
            values[tensor.index] = after(tensor, value) if after else value

    for tensor, value in zip(
        tensors_in(graph.inputs), _flat_inputs(graph, inputs), strict=True
    ):
        keep(tensor, _standardized(value, tensor))
    for call in graph.calls:
        args, kwargs = keras.tree.map_structure(
            lambda leaf: (
                values[leaf.index] if isinstance(leaf, Tensor) else leaf
            ),
            (call.args, call.kwargs),
        )
        # Explicitly: Keras would hand on what the last layer was called with.
        if _takes_training(call.operation):
            kwargs = {"training": training, **kwargs}
        results = call.operation(*args, **kwargs)
        for tensor, value in zip(
            keras.tree.flatten(call.outputs),
            keras.tree.flatten(results),
            strict=True,
        ):
            keep(tensor, value)
    return keras.tree.map_structure(
        lambda tensor: values[tensor.index], graph.outputs
    )


@dataclasses.dataclass
class _SymbolicCall:
    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any


def _record(model: keras.Model) -> tuple[Any, list[_SymbolicCall], Any]:
    """Inputs, calls and outputs as Keras tensors, nested models as one call."""
    calls: list[_SymbolicCall] = []

    def record(operation: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = operation(*args, **kwargs)
        calls.append(_SymbolicCall(operation, args, kwargs, outputs))
        return outputs

    if isinstance(model, keras.Sequential):
        inputs = outputs = _new_input(model.inputs[0])
        for layer in model.layers:
            outputs = record(layer, outputs)
        return inputs, calls, outputs
    if has_layer_list(model):
        clone = keras.models.clone_model(
            model,
            clone_function=lambda layer: layer,  # Shares the layers.
            call_function=record,
        )
        return clone.input, calls, clone.output
    shape = (model.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, list | tuple) or not shape or None in shape[1:]:
        raise ValueError(
            "`activation_bit_width` needs a model with inputs of known shape. "
            f"Received: {model.name!r}, a {type(model).__name__} without "
            "`inputs`. Make it functional: `keras.Model(inputs, "
            "model(inputs))`, with `inputs` from `keras.Input`, and quantize "
            "that."
        )
    inputs = keras.Input(batch_shape=(None, *shape[1:]), name="input_0")
    return inputs, calls, record(model, inputs)


def _new_input(tensor: Any) -> Any:
    return keras.Input(
        batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name
    )


def _flat_calls(
    calls: list[_SymbolicCall],
    values: dict[int, Tensor],
    numbers: Iterator[int],
    nested: list[tuple[keras.Model, tuple[Tensor, ...]]],
    path: tuple[str, ...],
    training: bool | None = None,
) -> Iterator[Call]:
    """Yields calls, nested models unfolded; extends `values` and `nested`."""
    for call in calls:
        inner_path = (*path, call.operation.name)
        if _is_unfoldable(call):
            fixed = call.kwargs.get("training", training)
            inputs, inner, outputs = _record(call.operation)
            inner_values = {
                id(tensor): values[id(outer)]
                for tensor, outer in zip(
                    keras.tree.flatten(inputs),
                    keras.tree.flatten(call.args[0]),
                    strict=True,
                )
            }
            nested.append((call.operation, tuple(inner_values.values())))
            yield from _flat_calls(
                inner, inner_values, numbers, nested, inner_path, fixed
            )
            for outer, tensor in zip(
                keras.tree.flatten(call.outputs),
                keras.tree.flatten(outputs),
                strict=True,
            ):
                values[id(outer)] = inner_values[id(tensor)]
            continue
        for tensor in keras.tree.flatten(call.outputs):
            if _is_symbolic(tensor):
                values[id(tensor)] = _tensor(tensor, numbers)
        kwargs = _translate(call.kwargs, values)
        if training is not None and _takes_training(call.operation):
            kwargs = {"training": training, **kwargs}
        yield Call(
            operation=call.operation,
            path="/".join(inner_path),
            args=_translate(call.args, values),
            kwargs=kwargs,
            outputs=_translate(call.outputs, values),
        )


def _is_unfoldable(call: _SymbolicCall) -> bool:
    others = {k: v for k, v in call.kwargs.items() if k != "training"}
    is_plain = len(call.args) == 1 and all(v is None for v in others.values())
    return is_plain and has_layer_list(call.operation)


def _takes_training(operation: Any) -> bool:
    is_layer = isinstance(operation, keras.Layer)
    return (
        is_layer and "training" in inspect.signature(operation.call).parameters
    )


def _is_symbolic(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _tensor(tensor: Any, numbers: Iterator[int]) -> Tensor:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return Tensor(next(numbers), tuple(tensor.shape), dtype)


def _translate(structure: Any, values: dict[int, Tensor]) -> Any:
    return keras.tree.map_structure(
        lambda leaf: values[id(leaf)] if _is_symbolic(leaf) else leaf,
        structure,
    )


def _flat_inputs(graph: Graph, inputs: Any) -> list[Any]:
    if isinstance(graph.inputs, dict) and isinstance(inputs, dict):
        # As in a functional model, entries that it does not use are ignored.
        inputs = {key: inputs[key] for key in graph.inputs}
    elif isinstance(inputs, dict):
        inputs = [inputs[name] for name in graph.names]
    return keras.tree.flatten(inputs)


def _standardized(value: Any, tensor: Tensor) -> Any:
    """The value with the type and the rank of the model's input."""
    if _is_symbolic(value):
        return value
    value = ops.convert_to_tensor(value, dtype=tensor.dtype)
    rank = len(tensor.shape)
    if len(value.shape) == rank - 1 and tensor.shape[-1] == 1:
        return ops.expand_dims(value, axis=-1)
    if len(value.shape) == rank + 1 and value.shape[-1] == 1:
        return ops.squeeze(value, axis=-1)
    return value
