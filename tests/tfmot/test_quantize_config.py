"""DeadZoneQuantizeConfig keeps TFMOT's contract of a QuantizeConfig.

The behaviours are those that TFMOT's own tests pin for its default config.
"""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from support.qat_models import layers
from tensorflow_model_optimization.quantization.keras import (
    quantize_annotate_layer,
    quantizers,
)

from codeq_keras import CoDeQConfig, CompressionRegularizer
from codeq_keras.tfmot import (
    DeadZoneQuantizeConfig,
    DeadZoneWeightQuantizer,
    quantize_scope,
)

KERNELS = {
    "Dense": (layers.Dense(3), "kernel"),
    "Conv1D": (layers.Conv1D(3, 2), "kernel"),
    "Conv2D": (layers.Conv2D(3, 2), "kernel"),
    "Conv2DTranspose": (layers.Conv2DTranspose(3, 2), "kernel"),
    "DepthwiseConv2D": (layers.DepthwiseConv2D(2), "depthwise_kernel"),
}
SHAPES = {"Dense": (None, 4), "Conv1D": (None, 8, 4)}


@pytest.fixture(params=KERNELS)
def built(request):
    layer, name = KERNELS[request.param]
    layer = type(layer).from_config(layer.get_config())
    layer.build(SHAPES.get(request.param, (None, 8, 8, 4)))
    return layer, name


def test_weights_are_the_kernel_with_our_quantizer(built):
    layer, name = built

    [(weight, quantizer)] = DeadZoneQuantizeConfig().get_weights_and_quantizers(
        layer
    )

    assert weight is getattr(layer, name)
    assert isinstance(quantizer, DeadZoneWeightQuantizer)


def test_activations_are_the_activation_with_8_bits(built):
    layer, _ = built

    [(activation, quantizer)] = (
        DeadZoneQuantizeConfig().get_activations_and_quantizers(layer)
    )

    assert activation is layer.activation
    assert quantizer == quantizers.MovingAverageQuantizer(
        num_bits=8, per_axis=False, symmetric=False, narrow_range=False
    )


def test_output_has_no_quantizer_of_its_own(built):
    assert DeadZoneQuantizeConfig().get_output_quantizers(built[0]) == []


def test_set_quantize_weights_replaces_the_kernel(built):
    layer, name = built
    tensor = tf.zeros(getattr(layer, name).shape)

    DeadZoneQuantizeConfig().set_quantize_weights(layer, [tensor])

    assert getattr(layer, name) is tensor


@pytest.mark.parametrize("tensors", [[], [0, 0]], ids=["none", "two"])
def test_set_quantize_weights_refuses_another_number(built, tensors):
    layer, name = built
    tensors = [tf.zeros(getattr(layer, name).shape) for _ in tensors]

    with pytest.raises(ValueError, match="takes one quantized kernel"):
        DeadZoneQuantizeConfig().set_quantize_weights(layer, tensors)


def test_set_quantize_weights_refuses_another_shape(built):
    with pytest.raises(ValueError, match=r"Received: tensors of shapes \[\(2"):
        DeadZoneQuantizeConfig().set_quantize_weights(
            built[0], [tf.zeros((2, 7))]
        )


def test_set_quantize_activations_replaces_the_activation(built):
    def activation(x):
        return x

    DeadZoneQuantizeConfig().set_quantize_activations(built[0], [activation])

    assert built[0].activation is activation


@pytest.mark.parametrize("quantize_activation", [True, False])
def test_set_quantize_activations_refuses_another_number(
    built, quantize_activation
):
    config = DeadZoneQuantizeConfig(quantize_activation=quantize_activation)

    with pytest.raises(ValueError, match=r"quantized activations. Received: 2"):
        config.set_quantize_activations(built[0], [None, None])


def test_config_round_trips_as_plain_types():
    config = DeadZoneQuantizeConfig(
        CoDeQConfig(bit_width=3),
        regularizer=CompressionRegularizer(dead_zone_penalty=0.1),
        quantize_activation=False,
    )

    copy = DeadZoneQuantizeConfig.from_config(config.get_config())

    assert copy == config
    assert copy != DeadZoneQuantizeConfig()
    assert copy.weight_quantizer.regularizer.dead_zone_penalty == 0.1


def test_config_is_found_under_quantize_scope_by_its_bare_name():
    config = {
        "class_name": "DeadZoneQuantizeConfig",
        "config": DeadZoneQuantizeConfig(CoDeQConfig(bit_width=3)).get_config(),
    }

    with quantize_scope():
        found = tf_keras.utils.legacy.deserialize_keras_object(config)

    assert found.config.bit_width == 3


def test_config_survives_annotation_and_cloning():
    layer = quantize_annotate_layer(
        layers.Dense(3, input_shape=(4,)),
        DeadZoneQuantizeConfig(CoDeQConfig(bit_width=3)),
    )
    model = tf_keras.Sequential([layer])

    clone = tf_keras.models.clone_model(model)

    assert clone.layers[0].quantize_config.config.bit_width == 3


def test_layer_without_a_single_kernel_is_refused_by_name():
    layer = layers.SeparableConv2D(3, 2, name="sep")

    with pytest.raises(ValueError, match="Received: 'sep', a SeparableConv2D"):
        DeadZoneQuantizeConfig().get_weights_and_quantizers(layer)


def test_subclass_of_a_supported_layer_is_supported():
    class MyDense(layers.Dense):
        pass

    layer = MyDense(3)
    layer.build((None, 4))

    [(weight, _)] = DeadZoneQuantizeConfig().get_weights_and_quantizers(layer)
    np.testing.assert_equal(tuple(weight.shape), (4, 3))
