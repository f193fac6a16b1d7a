"""DeadZoneQuantizeConfig: the quantized parts of one layer."""

from collections.abc import Sequence
from typing import Any

import tf_keras
from tensorflow_model_optimization.quantization.keras import (
    QuantizeConfig,
    quantizers,
)

from codeq_keras.config import CoDeQConfig
from codeq_keras.tfmot.weight_quantizer import DeadZoneWeightQuantizer
from codeq_keras.training.regularizer import CompressionRegularizer

_KERNEL_NAMES = {
    tf_keras.layers.Dense: "kernel",
    tf_keras.layers.Conv1D: "kernel",
    tf_keras.layers.Conv2D: "kernel",  # Conv2DTranspose is a subclass.
    tf_keras.layers.DepthwiseConv2D: "depthwise_kernel",
}


def kernel_name(layer: tf_keras.layers.Layer) -> str | None:
    """Returns the attribute that holds a layer's kernel, None without one.

    Example:

    >>> kernel_name(tf_keras.layers.Dense(3))
    'kernel'
    """
    for kind, name in _KERNEL_NAMES.items():
        if isinstance(layer, kind):
            return name
    return None


@tf_keras.utils.register_keras_serializable(package="codeq_keras")
class DeadZoneQuantizeConfig(QuantizeConfig):
    """CoDeQ on the kernel of a layer, TFMOT's 8 bits on its activation.

    Give it to `quantize_annotate_layer`, alone or to set one layer apart from
    the others of a `CoDeQScheme`. Supports Dense, Conv1D, Conv2D,
    Conv2DTranspose and DepthwiseConv2D; `CoDeQScheme` also splits separable
    convolutions.

    Args:
        config: `CoDeQConfig`, or None for its defaults.
        regularizer: `CompressionRegularizer` with penalties on the logits, or
            None.
        quantize_activation: False where something that the converter fuses
            follows the layer. `CoDeQScheme` sets it by itself.

    Example:

    >>> from tensorflow_model_optimization.quantization.keras import (
    ...     quantize_annotate_layer, quantize_apply
    ... )
    >>> config = DeadZoneQuantizeConfig(CoDeQConfig(bit_width=3))
    >>> head = tf_keras.layers.Dense(2, input_shape=(4,))
    >>> model = tf_keras.Sequential([quantize_annotate_layer(head, config)])
    >>> quantize_apply(model).output_shape
    (None, 2)
    """

    def __init__(
        self,
        config: CoDeQConfig | None = None,
        *,
        regularizer: CompressionRegularizer | None = None,
        quantize_activation: bool = True,
    ) -> None:
        self.weight_quantizer = DeadZoneWeightQuantizer(
            config, regularizer=regularizer
        )
        self.quantize_activation = quantize_activation
        self.activation_quantizer = quantizers.MovingAverageQuantizer(
            num_bits=8, per_axis=False, symmetric=False, narrow_range=False
        )

    @property
    def config(self) -> CoDeQConfig:
        """How the kernel is pruned and quantized."""
        return self.weight_quantizer.config

    def weights_only(self) -> "DeadZoneQuantizeConfig":
        """Returns this config without the quantizer of the activation."""
        return DeadZoneQuantizeConfig(
            self.config,
            regularizer=self.weight_quantizer.regularizer,
            quantize_activation=False,
        )

    def get_weights_and_quantizers(
        self, layer: tf_keras.layers.Layer
    ) -> list[tuple[Any, DeadZoneWeightQuantizer]]:
        """Returns the kernel with its quantizer."""
        return [(getattr(layer, _required_name(layer)), self.weight_quantizer)]

    def get_activations_and_quantizers(
        self, layer: tf_keras.layers.Layer
    ) -> list[tuple[Any, quantizers.Quantizer]]:
        """Returns the activation with TFMOT's 8-bit moving average."""
        if not self.quantize_activation:
            return []
        return [(layer.activation, self.activation_quantizer)]

    def set_quantize_weights(
        self, layer: tf_keras.layers.Layer, quantize_weights: Sequence[Any]
    ) -> None:
        """Puts the quantized kernel into the layer."""
        name = _required_name(layer)
        shape = tuple(getattr(layer, name).shape)
        received = [tuple(weight.shape) for weight in quantize_weights]
        if received != [shape]:
            raise ValueError(
                f"Layer {layer.name!r} takes one quantized kernel of shape "
                f"{shape}. Received: tensors of shapes {received}."
            )
        setattr(layer, name, quantize_weights[0])

    def set_quantize_activations(
        self, layer: tf_keras.layers.Layer, quantize_activations: Sequence[Any]
    ) -> None:
        """Puts the quantized activation into the layer."""
        expected = int(self.quantize_activation)
        if len(quantize_activations) != expected:
            raise ValueError(
                f"Layer {layer.name!r} takes {expected} quantized "
                f"activations. Received: {len(quantize_activations)}."
            )
        for activation in quantize_activations:
            layer.activation = activation

    def get_output_quantizers(
        self, layer: tf_keras.layers.Layer
    ) -> list[quantizers.Quantizer]:
        """Returns none: the activation is the output."""
        return []

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain Python types."""
        return {
            **self.weight_quantizer.get_config(),
            "quantize_activation": self.quantize_activation,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DeadZoneQuantizeConfig":
        """Creates the config from `get_config()`."""
        quantizer = DeadZoneWeightQuantizer.from_config(config)
        return cls(
            quantizer.config,
            regularizer=quantizer.regularizer,
            quantize_activation=config["quantize_activation"],
        )

    def __eq__(self, other: object) -> bool:
        """Compares the configs, as TFMOT's own do."""
        if not isinstance(other, DeadZoneQuantizeConfig):
            return NotImplemented
        return self.get_config() == other.get_config()

    __hash__ = None  # type: ignore[assignment]


def _required_name(layer: tf_keras.layers.Layer) -> str:
    name = kernel_name(layer)
    if name is None:
        raise ValueError(
            "DeadZoneQuantizeConfig quantizes the kernel of "
            f"{[kind.__name__ for kind in _KERNEL_NAMES]} and "
            f"Conv2DTranspose. Received: {layer.name!r}, a "
            f"{type(layer).__name__}. Leave it to `CoDeQScheme`, which splits "
            "separable convolutions, or write a QuantizeConfig that returns "
            "`DeadZoneWeightQuantizer` for each kernel."
        )
    return name
