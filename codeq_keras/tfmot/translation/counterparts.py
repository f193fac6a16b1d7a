"""Layers and activations of Keras 3 that tf_keras lacks, or has otherwise."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras


@tf_keras.utils.register_keras_serializable(package="codeq_keras")
class LayerScale(tf_keras.layers.Layer):
    """Multiplies each channel by a trained factor, as ConvNeXt does.

    Args:
        init_values: Float, the initial factor.
        projection_dim: Number of channels.

    Example:

    >>> float(LayerScale(0.5, 1)(tf.ones((1, 1)))[0, 0])
    0.5
    """

    def __init__(
        self, init_values: float, projection_dim: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.init_values = init_values
        self.projection_dim = projection_dim

    def build(self, input_shape: Any) -> None:
        """Creates the factors."""
        self.gamma = self.add_weight(
            name="gamma",
            shape=(self.projection_dim,),
            initializer=tf_keras.initializers.Constant(self.init_values),
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the scaled inputs."""
        return inputs * self.gamma

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "init_values": self.init_values,
            "projection_dim": self.projection_dim,
        }


@tf_keras.utils.register_keras_serializable(package="codeq_keras")
class ScaledAdd(tf_keras.layers.Layer):
    """Returns `first + scale * second`, as InceptionResNetV2 does.

    Args:
        scale: Float.

    Example:

    >>> float(ScaledAdd(0.5)([tf.ones(()), tf.ones(())]))
    1.5
    """

    def __init__(self, scale: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the sum."""
        first, second = inputs
        return first + self.scale * second

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "scale": self.scale}


@tf_keras.utils.register_keras_serializable(package="codeq_keras")
def hard_sigmoid(x: tf.Tensor) -> tf.Tensor:
    """Returns Keras 3's `relu6(x + 3) / 6`; tf_keras has another slope.

    Example:

    >>> round(float(hard_sigmoid(tf.constant(1.0))), 4)
    0.6667
    """
    return tf.nn.relu6(x + 3.0) / 6.0


@tf_keras.utils.register_keras_serializable(package="codeq_keras")
def hard_silu(x: tf.Tensor) -> tf.Tensor:
    """Returns `x * hard_sigmoid(x)`.

    Example:

    >>> round(float(hard_silu(tf.constant(1.0))), 4)
    0.6667
    """
    return x * hard_sigmoid(x)


# By the name in Keras 3. The two classes are private to its applications.
LAYERS = {"LayerScale": LayerScale, "CustomScaleLayer": ScaledAdd}

# "silu" has two names in Keras and one in TFMOT's list of activations.
ACTIVATIONS = {
    "hard_sigmoid": hard_sigmoid,
    "hard_silu": hard_silu,
    "hard_swish": hard_silu,
    "silu": "swish",
}

# Compared value by value: the same function in both.
EQUAL_ACTIVATIONS = frozenset(
    "elu exponential gelu leaky_relu linear log_softmax mish relu relu6 selu "
    "sigmoid softmax softplus softsign swish tanh".split()
)
