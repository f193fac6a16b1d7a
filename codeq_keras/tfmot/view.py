"""A TFMOT model seen as kernels and quantizers; its report and its codes."""

from collections.abc import Callable
from typing import Any

import tf_keras
from tensorflow_model_optimization.quantization.keras import QuantizeWrapper

import codeq_keras
from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.architecture.kernels import (
    KERNEL_NAME,
    Kernel,
    num_positions,
    output_axes,
)
from codeq_keras.quantizers.channel_gates import ChannelGates
from codeq_keras.quantizers.dead_zone import QuantizedWeight
from codeq_keras.quantizers.kernels import QuantizedKernel, quantized
from codeq_keras.reports.compression_report import CompressionReport
from codeq_keras.tfmot.weight_quantizer import KernelState, kernel_states
from codeq_keras.training.regularizer import CompressionRegularizer
from codeq_keras.training.schedule import TrainingSchedule


class QuantizedView:
    """A TFMOT model as reports and callbacks read it, see `HasQuantizers`.

    Attributes:
        kernels: All kernels, in the order of the layers: a `QuantizedKernel`,
            or a `Kernel` where CoDeQ does not quantize it.
        states: The states of the kernels that CoDeQ quantizes.
        regularizer: Holds a budget while a callback sets one.
        activation_bit_width: None: TFMOT quantizes the activations.
        activation_graph: None, likewise.
        channel_gates: None: TFMOT's layers keep their channels.
        training_loss: None: no callback adds a loss here.

    Args:
        model: Model from `quantize_apply`.

    Raises:
        ValueError: If no kernel of `model` is quantized by CoDeQ.
    """

    def __init__(self, model: tf_keras.Model) -> None:
        self.model = model
        self.regularizer = CompressionRegularizer()
        self.kernels: list[Kernel] = []
        self.states: list[KernelState] = []
        self.activation_bit_width: int | None = None
        self.activation_graph: ActivationGraph | None = None
        self.channel_gates: ChannelGates | None = None
        self.training_loss: Callable[..., Any] | None = None
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
            kernel = Kernel(
                path=f"{layer.name}/{name}",
                variable=weight,
                layer=layer,
                output_axes=output_axes(layer, weight),
                num_macs=macs,
            )
            if state is not None:
                kernel = QuantizedKernel(
                    **vars(kernel),
                    quantizer=state.quantizer,
                    pattern_obstacle=state.pattern_obstacle,
                )
            self.kernels.append(kernel)

    @property
    def quantized_kernels(self) -> tuple[QuantizedKernel, ...]:
        """The kernels that CoDeQ quantizes."""
        return quantized(self.kernels)

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
    return codeq_keras.report(QuantizedView(model))


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
    return codeq_keras.quantized_weights(QuantizedView(model))


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
