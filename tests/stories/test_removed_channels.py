"""A budget on multiply-accumulates, to a smaller file with the same outputs."""

import functools

import keras
import numpy as np
import pytest
from keras import layers
from support.removal import counted_macs, export_both, have_equal_outputs

import codeq_keras
from codeq_keras import CoDeQConfig

SHAPE = (12, 12, 3)
CLASSES = 4
STEPS = 30
BATCH_SIZE = 16
BUDGET = 0.5
# Two classes, with most of the multiplications, stay.
FROZEN_BUDGET = 0.95
MULTIPLE = 8


def _normed(x, layer, activation="relu"):
    x = layers.BatchNormalization()(layer(x))
    return layers.Activation(activation)(x)


def _excited(x, units):
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Dense(units, "relu", name="squeeze")(gate)
    gate = layers.Dense(x.shape[-1], "sigmoid", name="excite")(gate)
    return layers.Multiply()([x, gate])


def _conv(filters, size=3, **options):
    return layers.Conv2D(filters, size, padding="same", **options)


def cnn():
    """Each kind of layer that channels pass, are joined or are read by."""
    inputs = keras.Input(SHAPE)
    x = _normed(inputs, _conv(16, use_bias=False, strides=2, name="stem"))
    # Sigmoid and bias of a removed channel are not 0: nobody may read them.
    depthwise = layers.DepthwiseConv2D(3, padding="same", name="depthwise")
    x = _normed(x, depthwise, "sigmoid")
    x = _normed(x, _conv(24, 1, name="pointwise"))
    x = layers.Add()([x, _normed(_excited(x, 16), _conv(24, name="residual"))])
    x = layers.Concatenate()([x, _normed(x, _conv(16, name="branch"))])
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    x = layers.Dense(32, "relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="head")(x))


def frozen_cnn():
    model = cnn()
    model.get_layer("branch").trainable = False
    return model


def nested_cnn():
    """A model in a model, and a layer, each called twice."""
    inside = keras.Input((6, 6, 24))
    y = _normed(inside, _conv(32, name="wide"))
    y = _normed(y, _conv(24, 1, name="narrow"))
    block = keras.Model(inside, layers.Add()([inside, y]), name="block")
    shared = _conv(24, name="shared")
    inputs = keras.Input(SHAPE)
    x = _normed(inputs, _conv(24, strides=2, name="stem"))
    x = block(block(x))
    x = layers.ReLU()(shared(layers.ReLU()(shared(x))))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="head")(x))


def mixed_cnn():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return cnn()
    finally:
        keras.config.set_dtype_policy(before)


CASES = {
    "ternary": (cnn, CoDeQConfig(bit_width=2), {}),
    "learned": (cnn, CoDeQConfig(bit_width="learned"), {}),
    "per channel": (cnn, CoDeQConfig(axis=-1), {}),
    "uniform, one in float": (
        cnn,
        CoDeQConfig(bit_width=3, level_grid="uniform"),
        {"pointwise": None},
    ),
    "frozen": (frozen_cnn, CoDeQConfig(), {}),
    "nested": (nested_cnn, CoDeQConfig(), {}),
    "mixed precision": (mixed_cnn, CoDeQConfig(), {}),
}
# Half a minute each, with two exports.
QUICK = ("ternary", "nested")


@functools.cache
def trained(case):
    build, config, overrides = CASES[case]
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(STEPS * BATCH_SIZE, *SHAPE)).astype("float32")
    qmodel = codeq_keras.quantize_model(
        build(),
        config,
        overrides=overrides,
        activation_bit_width=8,
        channel_multiple=MULTIPLE,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile(keras.optimizers.Adam(0.01), loss)
    qmodel.fit(
        images,
        images.mean((1, 2)).argmax(-1),
        batch_size=BATCH_SIZE,
        verbose=0,
        callbacks=[
            codeq_keras.CompressionBudget(relative_macs=budget_of(case))
        ],
    )
    return qmodel, codeq_keras.remove_channels(qmodel), images


def budget_of(case):
    return FROZEN_BUDGET if case == "frozen" else BUDGET


every_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case in QUICK else pytest.mark.slow)
        for case in CASES
    ],
)


@every_case
def test_budget_is_met_within_one_multiple_per_class(case):
    qmodel, _, _ = trained(case)
    gates = qmodel.channel_gates

    counts = gates.counts()

    assert float(gates.relative_macs(counts)) <= budget_of(case)
    assert codeq_keras.report(qmodel).relative_macs <= budget_of(case)
    for index, (count, size) in enumerate(
        zip(counts, gates.sizes, strict=True)
    ):
        assert count % MULTIPLE == 0
        if count < size:
            more = counts.copy()
            more[index] = min(count + MULTIPLE, size)
            assert float(gates.relative_macs(more)) > budget_of(case), index


@every_case
def test_smaller_model_has_the_same_codes_and_outputs(case):
    qmodel, small, images = trained(case)
    whole_weights = codeq_keras.quantized_weights(qmodel)
    small_weights = codeq_keras.quantized_weights(small)

    assert small.count_params() < qmodel.count_params()
    assert small_weights.keys() == whole_weights.keys()
    for path, weight in small_weights.items():
        # All that was removed is 0.
        whole = whole_weights[path].codes
        np.testing.assert_array_equal(
            weight.codes[weight.codes != 0], whole[whole != 0], path
        )
        scales = whole_weights[path].scale.ravel()
        if case == "ternary":
            # A mean over fewer weights: a unit in the last place of float32.
            np.testing.assert_allclose(weight.scale.ravel(), scales, rtol=2e-7)
        else:
            assert set(weight.scale.ravel()) <= set(scales)
    left, right = (
        np.asarray(model(images[:64]), "float32") for model in (qmodel, small)
    )
    # Sums of fewer floats round in another way, but not to another integer.
    rtol = 1e-6 if case == "ternary" else 0
    np.testing.assert_allclose(left, right, rtol=rtol)


@every_case
def test_file_without_the_channels_has_identical_outputs(case, tmp_path):
    qmodel, small, _ = trained(case)

    whole_file, small_file = export_both(qmodel, tmp_path)

    assert small_file.verification.codes_equal
    assert small_file.size_bytes < whole_file.size_bytes
    assert have_equal_outputs(whole_file, small_file)
    layers_left = codeq_keras.report(small).layers
    assert counted_macs(small_file.path) == sum(x.num_macs for x in layers_left)


@pytest.mark.slow
def test_classes_of_a_frozen_layer_stay():
    qmodel, small, _ = trained("frozen")

    channels = codeq_keras.report(qmodel).channels

    for each in channels:
        if {"pointwise/kernel", "branch/kernel"} & set(each.members):
            assert each.num_kept == each.num_channels
    frozen = "branch/kernel"
    np.testing.assert_array_equal(
        codeq_keras.quantized_weights(small)[frozen].codes,
        codeq_keras.quantized_weights(qmodel)[frozen].codes,
    )


@pytest.mark.slow
def test_float_kernel_loses_channels_as_well():
    _, small, _ = trained("uniform, one in float")

    [kernel] = [k for k in small.kernels if k.path == "pointwise/kernel"]

    assert "pointwise/kernel" not in codeq_keras.quantized_weights(small)
    assert np.prod(kernel.variable.shape) < 16 * 24
