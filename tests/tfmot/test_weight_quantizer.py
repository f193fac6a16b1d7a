"""The kernel that a TFMOT wrapper sees is `codes * scale`, and trains."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from support.qat_models import images, layers, quantize, sequential
from tensorflow_model_optimization.quantization.keras import (
    QuantizeWrapperV2,
    quantize_annotate_layer,
    quantize_apply,
)

import codeq_keras
from codeq_keras import CoDeQConfig, CompressionRegularizer
from codeq_keras.tfmot import DeadZoneQuantizeConfig, quantized_weights
from codeq_keras.tfmot.weight_quantizer import kernel_states


def wrapped(layer, config=None, shape=(8, 8, 3)):
    wrapper = QuantizeWrapperV2(layer, DeadZoneQuantizeConfig(config))
    wrapper.build((None, *shape))
    [state] = kernel_states(wrapper)
    return wrapper, state


@pytest.mark.parametrize("grid", ["dead_zone", "uniform"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    "layer",
    [layers.Conv2D(4, 3), layers.DepthwiseConv2D(3), layers.Dense(4)],
    ids=lambda layer: type(layer).__name__,
)
def test_inference_values_are_codes_times_scale(layer, bits, grid):
    layer = type(layer).from_config(layer.get_config())
    config = CoDeQConfig(bit_width=bits, level_grid=grid)
    _, state = wrapped(layer, config)

    deployed = state.deployed(tf.convert_to_tensor(state.kernel)).numpy()

    weight = state.quantizer.quantized_weight(state.kernel)
    # The fake-quantization op rounds in units of scale: a few float32 ulp.
    np.testing.assert_allclose(deployed, weight.dequantize(), rtol=2e-6, atol=0)
    np.testing.assert_array_equal(deployed == 0, weight.codes == 0)


def test_training_and_inference_use_the_same_values(rng):
    wrapper, state = wrapped(layers.Dense(3, name="d"), shape=(6,))
    quantizer = wrapper.quantize_config.weight_quantizer
    variables = {"state": state}

    training = quantizer(state.kernel, True, variables)
    inference = quantizer(state.kernel, False, variables)

    np.testing.assert_allclose(training, inference, rtol=2e-6)


def test_math_is_that_of_the_keras_3_quantizer():
    _, state = wrapped(layers.Dense(3))

    assert isinstance(state.quantizer, codeq_keras.DeadZoneQuantizer)


def test_gradient_reaches_kernel_and_logits():
    wrapper, state = wrapped(
        layers.Dense(5), CoDeQConfig(bit_width="learned"), shape=(20,)
    )
    state.quantizer.assign_logits(dead_zone=0.5)

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(state.quantizer(state.kernel) ** 3)
    gradients = tape.gradient(loss, wrapper.trainable_weights)

    named = dict(
        zip([w.name for w in wrapper.trainable_weights], gradients, strict=True)
    )
    for name, gradient in named.items():
        if "bias" not in name:
            assert np.any(gradient.numpy() != 0), name


def test_variables_are_the_wrappers_own():
    wrapper, _ = wrapped(layers.Dense(3, name="d"))

    names = [weight.name for weight in wrapper.trainable_weights]

    assert names[:2] == ["kernel:0", "bias:0"]
    assert names[2].endswith("dead_zone_logit/probe:0")


def test_bound_is_that_of_the_kernel_before_training(rng):
    model = sequential(layers.Dense(4, name="d"), shape=(30,))
    kernel = rng.normal(size=(30, 4)).astype("float32")
    model.layers[-1].set_weights([kernel, np.zeros(4)])

    qat_model = quantize(model)

    scale = quantized_weights(qat_model)["d/kernel"].scale
    np.testing.assert_allclose(
        scale * 127, np.quantile(np.abs(kernel), 0.99), rtol=1e-6
    )


def test_logits_settle_at_their_own_rate_under_a_tiny_learning_rate(rng):
    x, y = images(rng)
    penalty = CompressionRegularizer(dead_zone_penalty=0.1)
    model = sequential(layers.Flatten(), layers.Dense(3, name="head"))
    qat_model = quantize(model, regularizer=penalty)
    qat_model.compile(
        tf_keras.optimizers.SGD(1e-6),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    qat_model.fit(x, y, batch_size=8, epochs=5, verbose=0)

    [state] = kernel_states(qat_model.layers[-1])
    assert float(state.quantizer.dead_zone_logit) < 2.7


def test_penalty_on_the_logits_joins_the_losses():
    penalty = CompressionRegularizer(dead_zone_penalty=0.5)
    qat_model = quantize(
        sequential(layers.Conv2D(2, 3), layers.Conv2D(2, 3)),
        regularizer=penalty,
    )

    assert float(sum(qat_model.losses)) == pytest.approx(2 * 0.5 * 3.0**2)


def test_density_penalty_is_refused_and_the_budget_named():
    with pytest.raises(ValueError, match="CompressionBudget"):
        DeadZoneQuantizeConfig(
            regularizer=CompressionRegularizer(density_penalty=0.1)
        )


@pytest.mark.parametrize(
    "layer",
    [layers.Dense(3), layers.DepthwiseConv2D(3)],
    ids=["dense", "depthwise"],
)
def test_scale_per_channel_is_refused_outside_conv2d(layer):
    with pytest.raises(ValueError, match="`axis=-1` needs a Conv2D"):
        wrapped(layer, CoDeQConfig(axis=-1))


def test_quantizer_works_in_a_quantize_config_of_the_user():
    layer = quantize_annotate_layer(
        layers.Dense(3, input_shape=(4,), name="head"),
        DeadZoneQuantizeConfig(),
    )

    qat_model = quantize_apply(tf_keras.Sequential([layer]))

    assert quantized_weights(qat_model)["head/kernel"].codes.shape == (4, 3)


def test_two_of_four_input_channels_stay_and_obstacles_are_named():
    config = CoDeQConfig(sparsity_pattern="2:4")
    _, state = wrapped(layers.Conv2D(4, 3), config, shape=(8, 8, 8))
    with pytest.warns(UserWarning, match="3 input channels"):
        _, without = wrapped(layers.Conv2D(4, 3), config)

    codes = state.quantizer.quantized_weight(state.kernel).codes

    groups = np.moveaxis(codes, 2, -1).reshape(-1, 4)
    assert np.count_nonzero(groups, axis=1).max() == 2
    assert "3 input channels" in without.pattern_obstacle
