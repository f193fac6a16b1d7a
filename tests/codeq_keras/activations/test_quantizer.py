"""ActivationQuantizer, and models whose activations are quantized."""

import keras
import numpy as np
import pytest
from keras import layers
from support.training import compile_and_fit

import codeq_keras
from codeq_keras import ActivationQuantizer
from codeq_keras.activations.quantizer import nudged_range

EIGHT_BITS = {"activation_bit_width": 8}


def array(value):
    return keras.ops.convert_to_numpy(value)


def quantizer_on(low, high):
    quantizer = ActivationQuantizer()
    quantizer(np.array([low, high], "float32"), training=True)
    return quantizer


def expected_values(x, held):
    """The rounding written out: codes of 8 bits around the zero point."""
    codes = np.floor(np.asarray(x, "float64") / held.scale + 0.5)
    codes = np.clip(codes + held.zero_point, -128, 127)
    return held.scale * (codes - held.zero_point)


@pytest.mark.parametrize(
    ("low", "high"),
    [(-1.0, 1.55), (0.0, 6.0), (-3.0, 0.0), (0.5, 2.0), (-0.03, 11.0)],
)
def test_values_are_rounded_to_256_levels_with_an_exact_zero(rng, low, high):
    quantizer = quantizer_on(low, high)
    # Away from the middle between two levels, where rounding may go either way.
    x = rng.uniform(low - 1, high + 1, 1000).astype("float32")
    held = quantizer.range
    position = (x / held.scale) % 1
    x = x[np.abs(position - 0.5) > 1e-2]

    y = array(quantizer(x, training=False))

    # One float32 product.
    np.testing.assert_allclose(y, expected_values(x, held), rtol=0, atol=2e-6)
    assert array(quantizer(np.zeros(1, "float32")))[0] == 0
    assert held.low <= 0 <= held.high
    assert len(np.unique(y)) <= 256


def test_range_begins_as_the_mean_and_goes_on_as_a_moving_average():
    quantizer = ActivationQuantizer()
    highs = [1.0, 2.0, 6.0]
    for high in highs:
        quantizer(np.array([0.0, high], "float32"), training=True)

    assert float(quantizer.high) == pytest.approx(np.mean(highs))
    quantizer.num_updates.assign(1000.0)
    quantizer(np.array([0.0, 11.0], "float32"), training=True)
    assert float(quantizer.high) == pytest.approx(3.0 + 0.01 * (11.0 - 3.0))


@pytest.mark.parametrize("broken", [1e30, float("inf"), float("nan")])
def test_one_broken_sample_does_not_ruin_a_range(broken):
    quantizer = ActivationQuantizer()
    batch = np.array([-1.0, 0.5, 3.0], "float32")
    for _ in range(100):
        quantizer(batch, training=True)
    quantizer(np.array([0.0, broken], "float32"), training=True)
    # A hundredth of what a batch counts for: four widths of 4.
    assert -1.0 <= float(quantizer.low) <= -0.98
    assert 2.96 <= float(quantizer.high) <= 3.0 + 0.01 * (4 * 4.0 - 3.0) + 1e-5
    for _ in range(1000):
        quantizer(10 * batch, training=True)
    # 1e-3 of the way is left: 0.99 ** 1000 is 4e-5, after some growth.
    assert float(quantizer.high) == pytest.approx(30.0, rel=1e-3)


def test_evaluation_and_a_frozen_quantizer_hold_the_range():
    quantizer = quantizer_on(0.0, 1.0)

    quantizer(np.array([5.0], "float32"), training=False)
    quantizer.trainable = False
    y = quantizer(np.array([5.0], "float32"), training=True)

    assert float(quantizer.high) == 1.0
    assert array(y)[0] == pytest.approx(1.0)


def test_without_a_batch_nothing_is_quantized(rng):
    quantizer = ActivationQuantizer()
    x = rng.normal(size=(4, 5)).astype("float32")

    np.testing.assert_array_equal(array(quantizer(x)), x)
    assert not quantizer.has_range
    assert quantizer.range is None


def test_activation_that_is_always_zero_keeps_a_usable_scale():
    quantizer = quantizer_on(0.0, 0.0)

    assert array(quantizer(np.zeros(2, "float32"))).tolist() == [0.0, 0.0]
    assert quantizer.range.scale == pytest.approx(1 / 255)


def test_averages_are_rounded_as_integer_pooling_does(rng):
    quantizer = quantizer_on(-1.0, 1.55)
    held = quantizer.range
    codes = rng.integers(-128, 128, (1000, 4))
    values = held.scale * (codes - held.zero_point)

    y = array(quantizer.round_average(values.mean(-1).astype("float32")))

    total = codes.sum(-1)
    expected = np.sign(total) * ((np.abs(total) + 2) // 4)
    np.testing.assert_array_equal(
        np.round(y / held.scale) + held.zero_point, expected
    )


def test_no_pixel_is_on_a_tie_where_zero_is_in_the_middle():
    quantizer = quantizer_on(-1.0, 1.0)
    x = ((2 * np.arange(256) - 255) / 255).astype("float32")

    held = quantizer.range
    steps = x.astype("float64") / held.scale

    # The nearest ones are 1/510 from it.
    assert np.abs(steps - np.floor(steps) - 0.5).min() > 1e-3
    np.testing.assert_allclose(
        array(quantizer(x)), expected_values(x, held), rtol=1e-5, atol=1e-6
    )


def test_gradient_passes_inside_the_range_only():
    quantizer = quantizer_on(-1.0, 1.0)
    x = np.array([-1.5, -0.7, 0.2, 0.9, 1.5], "float32")

    if keras.backend.backend() == "jax":
        import jax

        gradient = jax.grad(lambda x: quantizer(x, training=False).sum())(x)
    else:
        import tensorflow as tf

        variable = tf.Variable(x)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(quantizer(variable, training=False))
        gradient = tape.gradient(total, variable)

    assert array(gradient).tolist() == [0, 1, 1, 1, 0]


def test_nudged_range_is_the_one_of_the_fake_quantization():
    """0.1 is 25.5 steps: TFLite moves the range so that 0 is a level."""
    held = nudged_range(-0.1, 0.9)

    assert held.zero_point in (-102, -103)
    assert held.high - held.low == pytest.approx(1.0)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_trains_ranges_beside_weights(cnn, data, jit_compile):
    qmodel = codeq_keras.quantize_model(cnn, **EIGHT_BITS)

    compile_and_fit(qmodel, data, jit_compile=jit_compile)

    ranges = codeq_keras.activation_ranges(qmodel)
    assert list(ranges) == [
        cnn.inputs[0].name, "re_lu", "re_lu_1", "head"
    ] or len(ranges) == 4  # fmt: skip
    assert all(held is not None for held in ranges.values())
    scales = [held.scale for held in ranges.values()]
    assert len(set(scales)) == len(scales)


def test_model_without_ranges_computes_what_it_did(cnn, data):
    plain = codeq_keras.quantize_model(cnn)
    quantized = codeq_keras.quantize_model(cnn, **EIGHT_BITS)

    np.testing.assert_array_equal(
        array(quantized(data[0], training=False)),
        array(plain(data[0], training=False)),
    )


def test_outputs_are_on_the_grid_of_their_range(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn, **EIGHT_BITS)
    compile_and_fit(qmodel, data)

    outputs = array(qmodel(data[0], training=False))

    held = codeq_keras.activation_ranges(qmodel)["head"]
    codes = outputs / held.scale
    # Codes of up to 255, each off by float32 rounding.
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)


def test_saved_model_loads_with_its_ranges(cnn, data, tmp_path):
    qmodel = codeq_keras.quantize_model(cnn, **EIGHT_BITS)
    compile_and_fit(qmodel, data)
    qmodel.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")

    np.testing.assert_array_equal(
        loaded.predict(data[0], verbose=0), qmodel.predict(data[0], verbose=0)
    )
    assert codeq_keras.activation_ranges(
        loaded
    ) == codeq_keras.activation_ranges(qmodel)
    compile_and_fit(loaded, data)  # And trains on.


def test_stripped_model_has_no_quantizers(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn, **EIGHT_BITS)
    compile_and_fit(qmodel, data)

    stripped = codeq_keras.strip_quantizers(qmodel)

    assert [layer.name for layer in stripped.layers] == [
        layer.name for layer in cnn.layers
    ]
    assert [k.path for k in qmodel.kernels] == [
        k.path for k in codeq_keras.quantize_model(cnn).kernels
    ]


def test_budget_is_met_with_quantized_activations(wide_cnn, data):
    qmodel = codeq_keras.quantize_model(wide_cnn, **EIGHT_BITS)
    budget = codeq_keras.CompressionBudget(sparsity=0.6)

    compile_and_fit(qmodel, data, epochs=80, callbacks=[budget])

    assert codeq_keras.report(qmodel).sparsity == pytest.approx(0.6, abs=0.005)


def split_layers():
    """Layers that are two operators of a file, one of them shared."""
    image = keras.Input((8, 8, 3), name="image")
    x = layers.SeparableConv2D(
        3, 3, padding="same", activation="silu", bias_initializer="normal"
    )(image)
    shared = layers.Conv2D(3, 1, activation="sigmoid", name="shared")
    x = shared(shared(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


def test_layers_that_are_split_compute_and_train_as_before(data):
    model = split_layers()
    qmodel = codeq_keras.quantize_model(
        model, overrides={"": None}, **EIGHT_BITS
    )
    before = [np.array(v) for v in model.trainable_variables]

    # The fixed ranges of sigmoid and softmax are always rounded to: 1/256.
    np.testing.assert_allclose(
        array(qmodel(data[0])), array(model(data[0])), atol=0.02
    )
    compile_and_fit(qmodel, data)
    trained = qmodel.latent_model.trainable_variables
    for old, new in zip(before, trained, strict=True):
        assert not np.array_equal(old, array(new)), new.path


def test_frozen_nested_model_stays_frozen(data):
    """`base(x, training=False)`, as in every transfer-learning recipe."""
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(3, 3),
         layers.BatchNormalization(), layers.ReLU()], name="base"
    )  # fmt: skip
    image = keras.Input((8, 8, 3), name="image")
    x = layers.GlobalAveragePooling2D()(inner(image, training=False))
    model = keras.Model(image, layers.Dense(3)(x))
    qmodel = codeq_keras.quantize_model(model, **EIGHT_BITS)

    compile_and_fit(qmodel, data)

    norm = qmodel.latent_model.get_layer("base").layers[1]
    assert not np.any(array(norm.moving_mean))
    ranges = codeq_keras.activation_ranges(qmodel)
    assert all(held is not None for held in ranges.values())


def test_report_names_what_is_and_is_not_quantized(data):
    x = keras.Input((4, 8), name="x")
    y = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    model = keras.Model(x, layers.Dense(3, name="head")(y))
    qmodel = codeq_keras.quantize_model(model, **EIGHT_BITS)

    report = codeq_keras.report(qmodel)

    assert report.activations.unseen == ("x", "attention", "head")
    assert report.activations.inner == ("attention",)
    assert "no batch was seen in training by x" in str(report)
    qmodel(np.ones((2, 4, 8), "float32"), training=True)
    report = codeq_keras.report(qmodel)
    assert report.activations.num_quantized == 3
    head = report.layers[-1].num_macs
    macs = sum(layer.num_macs for layer in report.layers)
    density = 1 - np.array([layer.sparsity for layer in report.layers])
    bits = [32] * (len(report.layers) - 1) + [8]
    num_macs = np.array([layer.num_macs for layer in report.layers])
    expected = np.sum(num_macs * density * 4 * bits) / (macs * 32 * 32)
    assert head > 0
    with_activations = report.relative_bops * report.activations.bops_factor
    assert with_activations == pytest.approx(expected)


def test_bad_activation_bit_width_is_refused(cnn):
    with pytest.raises(ValueError, match="None or one of"):
        codeq_keras.quantize_model(cnn, activation_bit_width=4)


@pytest.mark.parametrize("given", [1.0, "01", ("0", "1"), (1.0, 0.0), (0.0,)])
def test_fixed_range_that_is_no_pair_of_numbers_is_refused(given):
    with pytest.raises(ValueError, match="Received: fixed_range="):
        ActivationQuantizer(fixed_range=given)
