"""A TFMOT model seen as kernels and quantizers; its report and its codes."""

from typing import Any

import tf_keras
from tensorflow_model_optimization.quantization.keras import QuantizeWrapper

import codeq_keras
from codeq_keras.architecture.kernels import (
    KERNEL_NAME,
    Kernel,
    num_positions,
    output_axes,
)
from codeq_keras.quantizers.dead_zone import DeadZoneQuantizer, QuantizedWeight
from codeq_keras.reports.report import CompressionReport
from codeq_keras.tfmot.weight_quantizer import KernelState, kernel_states
from codeq_keras.training.regularizer import CompressionRegularizer
from codeq_keras.training.schedule import TrainingSchedule


class QuantizedView:
    """What `codeq_keras` reads of a quantized model, for a TFMOT model.

    Attributes:
        kernels: All kernels, in the order of the layers.
        quantizers: One per kernel; None where CoDeQ does not quantize it.
        states: The states of the kernels that CoDeQ quantizes.
        regularizer: Holds a budget while a callback sets one.

    Args:
        model: Model from `quantize_apply`.

    Raises:
        ValueError: If no kernel of `model` is quantized by CoDeQ.
    """

    def __init__(self, model: tf_keras.Model) -> None:
        self.model = model
        self.regularizer = CompressionRegularizer()
        self.kernels: list[Kernel] = []
        self.quantizers: list[DeadZoneQuantizer | None] = []
        self.states: list[KernelState] = []
        num_calls = _num_calls(model)
        for layer in getattr(model, "layers", []):
            self._add_layer(layer, num_calls.get(layer.name, 1))
        if not self.states:
            raise ValueError(
                "Expected a model whose kernels CoDeQ quantizes. Received: "
                f"{getattr(model, 'name', model)!r}, an instance of "
                f"{type(model).__name__}. Make one with `quantize_apply("
                "quantize_annotate_model(model), scheme=CoDeQScheme())`."
            )

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the model trace its training step again."""
        return self.model.make_train_function(force=force)

    def _add_layer(self, wrapper: tf_keras.layers.Layer, calls: int) -> None:
        layer = wrapper
        if isinstance(wrapper, QuantizeWrapper):
            layer = wrapper.layer
        states = {id(state.kernel): state for state in kernel_states(wrapper)}
        self.states.extend(states.values())
        for weight in wrapper.weights:
            name = weight.name.split(":")[0].split("/")[-1]
            if not KERNEL_NAME.fullmatch(name) or len(weight.shape) < 2:
                continue
            state = states.get(id(weight))
            positions = num_positions(layer, weight, _input_shape(wrapper))
            macs = positions and calls * positions * weight.shape.num_elements()
            self.kernels.append(
                Kernel(
                    path=f"{layer.name}/{name}",
                    variable=weight,
                    layer=layer,
                    output_axes=output_axes(layer, weight),
                    num_macs=macs,
                )
            )
            self.quantizers.append(state.quantizer if state else None)

    @property
    def schedule(self) -> TrainingSchedule:
        """The schedule of one kernel, whose length all have."""
        return self.states[0].schedule


def report(model: tf_keras.Model) -> CompressionReport:
    """Returns sparsity, bits, BOPs, entropy and bytes per kernel.

    Args:
        model: Model from `quantize_apply`, trained or not.

    Returns:
        `codeq_keras.CompressionReport`. A kernel with TFMOT's own 8 bits
        counts as left in float.

    Raises:
        ValueError: If no kernel of `model` is quantized by CoDeQ.

    Example:

    >>> from tensorflow_model_optimization.quantization.keras import (
    ...     quantize_annotate_layer, quantize_apply
    ... )
    >>> from codeq_keras.tfmot import DeadZoneQuantizeConfig
    >>> head = tf_keras.layers.Dense(3, input_shape=(4,))
    >>> model = quantize_apply(tf_keras.Sequential(
    ...     [quantize_annotate_layer(head, DeadZoneQuantizeConfig())]
    ... ))
    >>> report(model).layers[0].num_macs == 4 * 3
    True
    """
    view: Any = QuantizedView(model)
    return codeq_keras.report(view)


def quantized_weights(model: tf_keras.Model) -> dict[str, QuantizedWeight]:
    """Returns the integers of every kernel that CoDeQ quantizes.

    Args:
        model: Model from `quantize_apply`.

    Returns:
        Map from the kernel's path, `"layer name/kernel"`, to its
        `codeq_keras.QuantizedWeight`.

    Raises:
        ValueError: If no kernel of `model` is quantized by CoDeQ, or one is
            on the grid `"paper"`, which has no integers.

    Example:

    >>> from tensorflow_model_optimization.quantization.keras import (
    ...     quantize_annotate_layer, quantize_apply
    ... )
    >>> from codeq_keras.tfmot import DeadZoneQuantizeConfig
    >>> head = tf_keras.layers.Dense(3, input_shape=(4,), name="head")
    >>> model = quantize_apply(tf_keras.Sequential(
    ...     [quantize_annotate_layer(head, DeadZoneQuantizeConfig())]
    ... ))
    >>> quantized_weights(model)["head/kernel"].codes.dtype
    dtype('int8')
    """
    view: Any = QuantizedView(model)
    return codeq_keras.quantized_weights(view)


def _num_calls(model: tf_keras.Model) -> dict[str, int]:
    """How often each layer of a functional model is called."""
    if isinstance(model, tf_keras.Sequential) or not getattr(
        model, "inputs", None
    ):
        return {}
    layers = model.get_config()["layers"]
    return {entry["name"]: len(entry["inbound_nodes"]) for entry in layers}


def _input_shape(layer: tf_keras.layers.Layer) -> tuple[Any, ...] | None:
    try:
        shape = layer.input_shape
    except (AttributeError, RuntimeError):
        return None  # Never called, or called with several shapes.
    is_single = isinstance(shape, tuple)
    return shape if is_single else None
