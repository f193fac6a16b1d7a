"""RangedModel: a stripped model with its trained activation ranges, as ops.

The fake-quantization operations it contains tell the converter the range of
each activation, so that it needs no samples.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

import codeq_keras
from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.activations.operators import is_joining, kind_of
from codeq_keras.activations.placement import Site
from codeq_keras.activations.quantizer import ActivationRange, rounded_average
from codeq_keras.architecture.calls import Call, run_graph


def has_trained_ranges(model: Any) -> bool:
    """Whether a quantized model brings the range of an activation.

    Args:
        model: Model from `codeq_keras.quantize_model`.
    """
    ranges = codeq_keras.activation_ranges(model).values()
    return any(held is not None for held in ranges)


Visitor = Callable[[str, np.ndarray, ActivationRange], np.ndarray]


class RangedModel:
    """Computes what the file shall compute, for the converter to trace.

    Args:
        model: The quantized model, for its ranges.
        stripped: The same architecture without quantizers.
    """

    def __init__(
        self, model: "codeq_keras.QuantizedModel", stripped: keras.Model
    ) -> None:
        self._ranges = codeq_keras.activation_ranges(model)
        self._paths = [kernel.path for kernel in model.kernels]
        self._sites = ActivationGraph(stripped)
        for twin, original in self._sites.twins:
            twin.assign(original)
        calls = [self._exported(call) for call in self._sites.graph.calls]
        self._graph = dataclasses.replace(self._sites.graph, calls=tuple(calls))
        twins = [twin for twin, _ in self._sites.twins]
        self.weights = [v.value for v in (*stripped.weights, *twins)]

    def __call__(self, *values: Any) -> Any:
        """Returns the outputs for one tensor per input."""
        return self._run(values, self._rounded)

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
            # The file averages the codes whatever stands here, so this is
            # only for the comparison.
            if site.is_average and not is_fixed:
                rounded = rounded_average(value, held.low, held.high)
            else:
                rounded = _fake_quantized(value, held)
            array = ops.convert_to_numpy(rounded)
            return ops.convert_to_tensor(function(site.path, array, held))

        self._run(values, visited)

    def require_ranges_for_kernels(self) -> None:
        """Raises a ValueError if a kernel is inside of a layer.

        Without samples such a layer is in float in the file, its weights too.
        """
        hidden = [
            path
            for path in self._sites.placement.inner
            if any(kernel.startswith(f"{path}/") for kernel in self._paths)
        ]
        if hidden:
            raise ValueError(
                "`representative_dataset` must hold inputs as in training: "
                "the ranges of activations inside of layers are measured on "
                f"them. Received: None, and weights inside of {hidden}."
            )

    def notes(self, *, has_samples: bool) -> list[str]:
        """Returns what the user should know about ranges that are missing.

        Args:
            has_samples: Whether the converter measures them.
        """
        notes = []
        unseen = [path for path, held in self._ranges.items() if held is None]
        if unseen:
            notes.append(
                f"No batch was seen in training by the activations {unseen}."
            )
        clipped = self._joined_to_prescribed()
        if clipped:
            notes.append(
                "The file computes what these layers read within the range of "
                "the sigmoid, softmax or tanh among it, and clips what is "
                f"outside: {clipped}."
            )
        inner = self._sites.placement.inner
        if inner and has_samples:
            notes.append(
                "The ranges inside of these layers were measured on the "
                f"representative dataset, not trained: {list(inner)}."
            )
        elif inner:
            notes.append(
                "The ranges inside of these layers are not trained: "
                f"{list(inner)}. Give `representative_dataset` to measure "
                "them; without, such operators stay in float."
            )
        return notes

    def _joined_to_prescribed(self) -> list[str]:
        """Where the converter lets one input's range hold for the others."""
        sites = self._sites.placement.sites
        prescribed = {s.tensor.index for s in sites if s.fixed_range}
        return [
            call.path
            for call in self._sites.graph.calls
            if is_joining(call.operation)
            and prescribed & {tensor.index for tensor in call.inputs}
        ]

    def _rounded(self, site: Site, path: str, value: Any) -> Any:
        held = self._ranges[path]
        return value if held is None else _fake_quantized(value, held)

    def _exported(self, call: Call) -> Call:
        """The call, with what no single operator computes rewritten."""
        tensor = call.inputs[0] if call.inputs else None
        if tensor is None or tensor.index not in self._sites.placement.rounded:
            return call
        gain = affine_coefficients(call.operation)
        if gain is None:
            return call
        affine = _Affine(*gain, channels=tensor.shape[-1] or 1)
        return dataclasses.replace(
            call, operation=affine, args=(tensor,), kwargs={}
        )


def _fake_quantized(value: Any, held: ActivationRange) -> Any:
    return keras.quantizers.fake_quant_with_min_max_vars(
        value, np.float32(held.low), np.float32(held.high), num_bits=8
    )


def affine_coefficients(layer: Any) -> tuple[Any, Any] | None:
    """Returns gain and offset of a layer that computes `gain * x + offset`.

    Args:
        layer: A layer or operation.

    Returns:
        Float arrays for the last axis, scalars included; None if the layer
        computes something else.

    Example:

    >>> affine_coefficients(keras.layers.Rescaling(0.5, offset=-1.0))
    (array(0.5, dtype=float32), array(-1., dtype=float32))
    """
    kind = kind_of(layer)
    if kind == "Rescaling":
        values = (layer.scale, layer.offset)
        gain, offset = (np.asarray(value, np.float32) for value in values)
        return gain, offset
    if kind == "Normalization":
        return _normalization_coefficients(layer)
    if kind != "BatchNormalization":
        return None
    if layer.axis not in (-1, layer.input_spec.ndim - 1):
        return None
    gain = 1 / np.sqrt(np.asarray(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        gain = gain * np.asarray(layer.gamma)
    offset = -np.asarray(layer.moving_mean) * gain
    if layer.center:
        offset = offset + np.asarray(layer.beta)
    return gain, offset


def _normalization_coefficients(layer: Any) -> tuple[Any, Any] | None:
    mean, variance = (np.asarray(v) for v in (layer.mean, layer.variance))
    if mean.size != mean.shape[-1]:
        return None  # One value per pixel, say.
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        gain, offset = deviation, mean
    else:
        gain, offset = 1 / deviation, -mean / deviation
    return gain.reshape(-1), offset.reshape(-1)


class _Affine:
    """`gain * x + offset` as one operator, a depthwise convolution of 1x1.

    As MUL and ADD it would be two, with a tensor between them whose range was
    never trained.
    """

    def __init__(self, gain: Any, offset: Any, *, channels: int) -> None:
        self._kernel = np.broadcast_to(gain, (channels,)).astype(np.float32)
        self._bias = np.broadcast_to(offset, (channels,)).astype(np.float32)

    def __call__(self, inputs: Any) -> Any:
        shape = tuple(inputs.shape)
        is_image = len(shape) == 4
        flat = (
            inputs if is_image else ops.reshape(inputs, (1, -1, 1, shape[-1]))
        )
        kernel = self._kernel.reshape(1, 1, -1, 1)
        result = ops.depthwise_conv(flat, kernel, data_format="channels_last")
        result = result + self._bias
        return result if is_image else ops.reshape(result, shape)
