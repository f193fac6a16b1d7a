"""DeadZoneWeightQuantizer: TFMOT's `Quantizer` protocol around ours."""

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
import tf_keras
from keras import ops as keras_ops
from tensorflow_model_optimization.quantization.keras import quantizers

from codeq_keras import ops
from codeq_keras.architecture.kernels import output_axes
from codeq_keras.config import CoDeQConfig, require_config
from codeq_keras.ops.grids import GRIDS
from codeq_keras.quantizers.dead_zone import (
    DeadZoneQuantizer,
    begin_training_step,
)
from codeq_keras.quantizers.kernels import QuantizedKernel
from codeq_keras.quantizers.pattern import warn_of_obstacles, with_pattern
from codeq_keras.training.fitting import REFRESH_STEPS
from codeq_keras.training.regularizer import (
    CompressionRegularizer,
    require_regularizer,
)
from codeq_keras.training.schedule import TrainingSchedule

# The file holds int8 in [-127, 127] on every grid.
_MAX_CODE = 127


class KernelState:
    """The Keras 3 objects that quantize one kernel of a TFMOT wrapper.

    A plain object on purpose: `tf_keras` would try to save a Keras 3 layer
    that it finds in an attribute. The variables are handed to the wrapper one
    by one instead, which trains and saves them.

    Attributes:
        weight_name: Name of the kernel in its layer, such as `"kernel"`.
        kernel: The latent kernel, a `tf.Variable`. The layer itself holds the
            quantized tensor after its first call.
        quantizer: Owner of the logits and of the held bound.
        schedule: Counts the training steps of this kernel.
        per_channel: Whether the converter needs one range per channel.
        pattern_obstacle: As in `QuantizedKernel`.
    """

    def __init__(
        self,
        weight_name: str,
        kernel: tf.Variable,
        quantizer: DeadZoneQuantizer,
        *,
        per_channel: bool,
        pattern_obstacle: str | None = None,
    ) -> None:
        self.weight_name = weight_name
        self.kernel = kernel
        self.quantizer = quantizer
        self.schedule = TrainingSchedule(name=f"{weight_name}_schedule")
        self.per_channel = per_channel
        self.pattern_obstacle = pattern_obstacle

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of the quantizer and of the schedule."""
        return [*self.quantizer.variables, *self.schedule.variables]

    def begin_training_step(self) -> None:
        """Moves the logits, refreshes the bound and counts the step."""
        schedule, step = self.schedule, self.schedule.step
        begin_training_step(
            [(self.quantizer, self.kernel)],
            rate=schedule.logit_rate(),
            bits_rate=schedule.bits_rate(),
            step=step,
            is_due=keras_ops.equal(step % REFRESH_STEPS, 0),
        )
        self.quantizer.follow_held_zeros(self.kernel)
        schedule.advance()

    def deployed(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns the values of the file, in a form the converter reads.

        A fake-quantization op of range `±127 * scale` leaves `codes * scale`
        as it is and tells the converter the scale. Convolutions take one
        range per channel, all equal: with a single one the converter does
        not fold a following BatchNormalization.
        """
        codes, scale = self.quantizer.codes_and_scale(kernel)
        values, bound = ops.dequantize(codes, scale), _MAX_CODE * scale
        if not self.per_channel:
            return tf.quantization.fake_quant_with_min_max_vars(
                values, -bound, bound, narrow_range=True
            )
        # A product, which the converter folds; it keeps a `broadcast_to`.
        bounds = tf.ones(kernel.shape[-1:]) * tf.reshape(bound, [-1])
        return tf.quantization.fake_quant_with_min_max_vars_per_channel(
            values, -bounds, bounds, narrow_range=True
        )


def kernel_states(layer: tf_keras.layers.Layer) -> Iterator[KernelState]:
    """Yields what `DeadZoneWeightQuantizer.build` put on a layer."""
    for value in vars(layer).values():
        if isinstance(value, KernelState):
            yield value


class DeadZoneWeightQuantizer(quantizers.Quantizer):
    """Prunes and rounds a kernel inside TFMOT's `QuantizeWrapperV2`.

    Only translates TFMOT's protocol: the math, the logits and the schedule
    are those of `codeq_keras.DeadZoneQuantizer`, whose variables become the
    wrapper's. A QuantizeConfig of your own can return it from
    `get_weights_and_quantizers`; `DeadZoneQuantizeConfig` does.

    Args:
        config: `CoDeQConfig`, or None for its defaults.
        regularizer: `CompressionRegularizer` whose penalties on the logits
            join the losses of the model, or None.

    Raises:
        ValueError: If the regularizer has a `density_penalty`, which needs
            all kernels at once; when it is built, if `config.axis` is -1 and
            the layer is not a Conv2D.

    Example:

    >>> quantizer = DeadZoneWeightQuantizer(CoDeQConfig(bit_width=3))
    >>> quantizer.get_config()["config"]["bit_width"]
    3
    """

    def __init__(
        self,
        config: CoDeQConfig | None = None,
        *,
        regularizer: CompressionRegularizer | None = None,
    ) -> None:
        self.config = require_config(config)
        self.regularizer = regularizer
        density_penalty = require_regularizer(regularizer).density_penalty
        if density_penalty:
            raise ValueError(
                "`density_penalty` weighs all kernels of a model at once, "
                "which a TFMOT quantizer does not see. Received: "
                f"density_penalty={density_penalty}. Use "
                "`codeq_keras.tfmot.CompressionBudget(sparsity=...)` in `fit`."
            )

    def build(
        self, tensor_shape: Any, name: str, layer: tf_keras.layers.Layer
    ) -> dict[str, Any]:
        """Creates the state of one kernel; its variables become `layer`'s.

        Args:
            tensor_shape: Shape of the kernel.
            name: Name of the kernel in the wrapped layer.
            layer: The `QuantizeWrapperV2`.

        Returns:
            `{"state": KernelState}`, which TFMOT hands to `__call__`.
        """
        is_conv = _is_convolution(layer.layer)
        if self.config.axis is not None and not is_conv:
            raise ValueError(
                "`axis=-1` needs a Conv2D: the TFLite converter reads no "
                "scales per channel from the QAT graph of other layers. "
                f"Received: axis=-1 for {layer.layer.name!r} "
                f"({type(layer.layer).__name__}). Use `axis=None` there."
            )
        kernel = getattr(layer.layer, name)
        # The kernel and bias come before the logits. TFMOT itself puts them
        # first in a new model and last in a reloaded one, where H5 files,
        # which are read by order, would not fit.
        for index, weight in enumerate(layer.layer.trainable_weights):
            setattr(layer, f"latent_{index}", weight)
        with tf.init_scope():
            config, pattern, obstacle = with_pattern(
                self.config, layer.layer, kernel
            )
            quantizer = DeadZoneQuantizer(
                config,
                axis=output_axes(layer.layer, kernel),
                name=name,
                **pattern,
            )
            quantizer.build(tuple(tensor_shape))
            quantizer.update_abs_bound(kernel)
            state = KernelState(
                name,
                kernel,
                quantizer,
                per_channel=is_conv
                or isinstance(layer.layer, tf_keras.layers.DepthwiseConv2D),
                pattern_obstacle=obstacle,
            )
        if obstacle is not None:
            warn_of_obstacles({f"{layer.layer.name}/{name}": obstacle}, 2)
        for variable in state.variables:
            setattr(layer, variable.path.replace("/", "_"), variable.value)
        setattr(layer, f"{name}_state", state)
        if self.regularizer is not None:
            _add_penalty(self.regularizer, state, layer)
        return {"state": state}

    def __call__(
        self,
        inputs: Any,
        training: bool,
        weights: dict[str, Any],
        **kwargs: Any,
    ) -> Any:
        """Returns the deployed values of the kernel."""
        state = weights["state"]
        if training:
            state.begin_training_step()
        elif GRIDS[self.config.level_grid].has_codes:
            return state.deployed(tf.convert_to_tensor(inputs))
        return state.quantizer(inputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain Python types."""
        serialize = keras.saving.serialize_keras_object
        return {
            "config": self.config.get_config(),
            "regularizer": self.regularizer and serialize(self.regularizer),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DeadZoneWeightQuantizer":
        """Creates the quantizer from `get_config()`."""
        regularizer = config["regularizer"]
        return cls(
            CoDeQConfig.from_config(config["config"]),
            regularizer=regularizer
            and keras.saving.deserialize_keras_object(regularizer),
        )

    def __eq__(self, other: object) -> bool:
        """Compares the configs, as TFMOT's own quantizers do."""
        if not isinstance(other, DeadZoneWeightQuantizer):
            return NotImplemented
        return self.get_config() == other.get_config()

    __hash__ = None  # type: ignore[assignment]


def _add_penalty(
    regularizer: CompressionRegularizer,
    state: KernelState,
    layer: tf_keras.layers.Layer,
) -> None:
    kernel = QuantizedKernel(
        path=state.weight_name,
        variable=state.kernel,
        layer=layer.layer,
        output_axes=(),
        num_macs=None,
        quantizer=state.quantizer,
    )

    def penalty() -> Any:
        loss = regularizer.penalty([kernel])
        return tf.zeros(()) if loss is None else loss

    layer.add_loss(penalty)


def _is_convolution(layer: tf_keras.layers.Layer) -> bool:
    # In tf_keras the transposed convolution is a subclass.
    return isinstance(layer, tf_keras.layers.Conv2D) and not isinstance(
        layer, tf_keras.layers.Conv2DTranspose
    )
