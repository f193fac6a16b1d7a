"""quantize_model, strip_quantizers and saving, on all kinds of models."""

import keras
import numpy as np
import pytest
from keras import layers
from support.custom_model import ScaledDense, SubclassedModel
from support.training import compile_and_fit

import codeq_keras
from codeq_keras import CoDeQConfig


def functional_zoo():
    """Every kind of layer that owns a kernel, nested, shared and branched."""
    inputs = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(4, 3, padding="same")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    block_input = keras.Input((8, 8, 4))
    block = keras.Model(
        block_input, layers.Conv2D(4, 1, name="inner")(block_input)
    )
    x = layers.Add()([block(x), block(block(x))])
    x = layers.Reshape((64, 4))(layers.Dropout(0.1)(x))
    x = layers.MultiHeadAttention(2, 2)(x, x)
    x = layers.EinsumDense("abc,cd->abd", (None, 4))(x)
    x = layers.LayerNormalization()(x)
    x = layers.Conv1D(4, 3, strides=8)(x)
    x = layers.Bidirectional(layers.GRU(3))(x)
    x = layers.LSTM(3, unroll=True)(layers.Reshape((2, 3))(x))
    return keras.Model(inputs, layers.Dense(3)(x))


def subclassed():
    model = SubclassedModel()
    model(np.zeros((1, 8, 8, 3), "float32"))
    return model


MODELS = {"functional": functional_zoo, "subclassed": subclassed}


@pytest.fixture(params=MODELS)
def model(request):
    keras.utils.set_random_seed(0)
    return MODELS[request.param]()


class Training:
    """A model, its quantized copy, and what both were before the fit."""

    def __init__(self, model):
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(32, 8, 8, 3)).astype("float32")
        self.model, self.model_before = model, snapshot(model)
        self.qmodel = codeq_keras.quantize_model(model)
        self.kernels_before = [
            np.array(kernel.variable) for kernel in self.qmodel.kernels
        ]
        self.history = compile_and_fit(
            self.qmodel, (self.x, rng.integers(0, 3, 32))
        )


@pytest.fixture(params=MODELS, scope="module")
def training(request):
    keras.utils.set_random_seed(0)
    return Training(MODELS[request.param]())


def snapshot(model):
    """All variables but the seeds, which Keras does not save."""
    return [
        np.array(keras.ops.convert_to_numpy(variable))
        for variable in model.variables
        if "seed_generator" not in variable.path
    ]


def assert_equal_arrays(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_quantizers_outputs_are_bit_identical(model, data):
    off = codeq_keras.quantize_model(model, overrides={"": None})

    for training in (False, True):
        expected = model(data[0], training=training)
        actual = off(data[0], training=training)
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(actual),
            keras.ops.convert_to_numpy(expected),
        )
    # BatchNorm statistics, seeds and buffers moved alike as well.
    assert_equal_arrays(snapshot(off.latent_model), snapshot(model))


def test_input_model_is_not_changed_by_training(training):
    assert_equal_arrays(snapshot(training.model), training.model_before)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="JAX traces anyway"
)
def test_first_step_is_traced_once(cnn, data, monkeypatch):
    qmodel = codeq_keras.quantize_model(cnn)
    qmodel.compile("adam", loss="sparse_categorical_crossentropy")
    traces, advance = [], qmodel.schedule.advance
    monkeypatch.setattr(
        qmodel.schedule, "advance", lambda: traces.append(advance())
    )

    for _ in range(3):
        qmodel.train_on_batch(*data)

    # A step that creates variables, as the optimizer's, is traced twice.
    assert len(traces) == 1


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_moves_kernels_logits_and_statistics(cnn, data, jit_compile):
    qmodel = codeq_keras.quantize_model(cnn, CoDeQConfig(bit_width="learned"))
    before = snapshot(qmodel.latent_model)

    compile_and_fit(qmodel, data, jit_compile=jit_compile)

    logits = [k.quantizer.dead_zone_logit for k in qmodel.kernels]
    logits += [k.quantizer.bit_width_logit for k in qmodel.kernels]

    for old, new in zip(before, snapshot(qmodel.latent_model), strict=True):
        assert not np.array_equal(old, new)
    assert all(float(logit) != 3.0 for logit in logits)


def test_fit_runs_on_every_kind_of_model(training):
    kernels = training.qmodel.kernels
    before = training.kernels_before

    assert np.all(np.isfinite(training.history.history["loss"]))
    for old, kernel in zip(before, kernels, strict=True):
        assert not np.array_equal(old, np.array(kernel.variable)), kernel.path


def test_saved_model_loads_without_custom_objects(cnn, data, tmp_path):
    qmodel = codeq_keras.quantize_model(
        cnn,
        CoDeQConfig(bit_width="learned", axis=-1),
        overrides={"head": None, "depthwise": CoDeQConfig(bit_width=5)},
        regularizer=codeq_keras.CompressionRegularizer(density_penalty=0.1),
    )
    compile_and_fit(qmodel, data)
    qmodel.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")

    expected = qmodel.predict(data[0], verbose=0)
    np.testing.assert_array_equal(loaded.predict(data[0], verbose=0), expected)
    for key in ("config", "overrides", "regularizer"):
        assert loaded.get_config()[key] == qmodel.get_config()[key]
    assert loaded.regularizer.density_penalty == 0.1
    assert_equal_arrays(snapshot(loaded), snapshot(qmodel))
    compile_and_fit(loaded, data)  # And trains on.


def test_save_weights_round_trips(cnn, data, tmp_path):
    qmodel = codeq_keras.quantize_model(cnn)
    compile_and_fit(qmodel, data)
    qmodel.save_weights(tmp_path / "model.weights.h5")
    other = codeq_keras.quantize_model(cnn)

    other.load_weights(tmp_path / "model.weights.h5")

    assert_equal_arrays(snapshot(other), snapshot(qmodel))


@pytest.mark.parametrize("axis", [None, -1])
@pytest.mark.parametrize("level_grid", ["dead_zone", "uniform", "paper"])
def test_stripped_model_predicts_the_same(cnn, data, level_grid, axis):
    qmodel = codeq_keras.quantize_model(
        cnn, CoDeQConfig(level_grid=level_grid, axis=axis)
    )
    compile_and_fit(qmodel, data)

    stripped = codeq_keras.strip_quantizers(qmodel)

    assert type(stripped) is type(cnn)
    # One float32 matrix product against the same one: only its order differs.
    np.testing.assert_allclose(
        stripped.predict(data[0], verbose=0),
        qmodel.predict(data[0], verbose=0),
        rtol=1e-4,
        atol=1e-5,
    )


def test_stripped_kernels_are_codes_times_scale(training):
    stripped = codeq_keras.strip_quantizers(training.qmodel)

    # The paths do not depend on the numbers in the copies' layer names.
    weights = codeq_keras.quantized_weights(training.qmodel)
    found = codeq_keras.architecture.kernels.find_kernels(stripped)
    assert {k.path for k in found} == set(weights)
    for kernel in found:
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(kernel.variable),
            weights[kernel.path].dequantize(),
        )


def test_per_channel_scale_follows_the_output_channels(cnn):
    qmodel = codeq_keras.quantize_model(cnn, CoDeQConfig(axis=-1))

    weights = codeq_keras.quantized_weights(qmodel)

    assert weights["conv/kernel"].scale.shape == (1, 1, 1, 4)
    assert weights["depthwise/kernel"].scale.shape == (1, 1, 4, 1)
    assert weights["head/kernel"].scale.shape == (1, 3)


def test_overrides_choose_by_path_and_first_match_wins(cnn):
    qmodel = codeq_keras.quantize_model(
        cnn,
        overrides={
            "^conv/": CoDeQConfig(bit_width=8),
            "conv|head": None,
        },
    )

    weights = codeq_keras.quantized_weights(qmodel)

    widths = {path: weight.bit_width for path, weight in weights.items()}
    assert widths == {"conv/kernel": 8, "depthwise/kernel": 4}


def test_abs_bound_follows_the_kernel_and_is_held_between_refreshes(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn)
    kernel = qmodel.kernels[0]
    quantizer = kernel.quantizer
    held = float(quantizer.abs_bound)
    kernel.variable.assign(2 * kernel.variable)

    qmodel(data[0], training=False)
    after_evaluation = float(quantizer.abs_bound)
    qmodel(data[0], training=True)  # Step 0 refreshes.
    after_refresh = float(quantizer.abs_bound)
    kernel.variable.assign(2 * kernel.variable)
    for _ in range(9):
        qmodel(data[0], training=True)
    after_nine_steps = float(quantizer.abs_bound)
    qmodel(data[0], training=True)  # Step 10 refreshes.

    assert after_evaluation == held
    assert after_refresh == pytest.approx(2 * held)
    assert after_nine_steps == after_refresh
    assert float(quantizer.abs_bound) == pytest.approx(4 * held)


def test_mixed_precision_keeps_the_codes_in_float32(data):
    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(4, 3, dtype="mixed_bfloat16", name="conv")
    x = layers.GlobalAveragePooling2D()(conv(inputs))
    qmodel = codeq_keras.quantize_model(
        keras.Model(inputs, layers.Dense(3, dtype="float32")(x))
    )

    compile_and_fit(qmodel, data)

    codes = codeq_keras.quantized_weights(qmodel)["conv/kernel"].codes
    assert len(np.unique(codes)) <= 2 * 7 + 1


def test_fits_after_a_call_in_training(cnn, data):
    """JAX donates every variable to the step, and may share none of them."""
    qmodel = codeq_keras.quantize_model(cnn)
    qmodel(data[0], training=True)

    history = compile_and_fit(qmodel, data, epochs=1).history

    assert np.isfinite(history["loss"]).all()


def test_trains_in_a_loop_of_ones_own(cnn, data):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("The loop below is TensorFlow's.")
    import tensorflow as tf

    qmodel = codeq_keras.quantize_model(
        cnn,
        regularizer=codeq_keras.CompressionRegularizer(density_penalty=10.0),
    )
    optimizer = keras.optimizers.Adam(1e-3)
    for _ in range(20):
        with tf.GradientTape() as tape:
            outputs = qmodel(data[0], training=True)
            loss = keras.ops.mean(outputs**2) + sum(qmodel.losses)
        optimizer.apply(
            tape.gradient(loss, qmodel.trainable_variables),
            qmodel.trainable_variables,
        )

    for kernel in qmodel.kernels:
        assert float(kernel.quantizer.dead_zone_logit) < 3.0


def test_custom_layer_keeps_its_loss_and_buffer(data):
    model = subclassed()
    qmodel = codeq_keras.quantize_model(model)

    qmodel(data[0], training=True)

    assert isinstance(qmodel.latent_model.scaled, ScaledDense)
    assert float(qmodel.latent_model.scaled.num_calls) == 1
    # The custom layer's loss and the convolution's regularizer.
    assert len(qmodel.losses) == 2


@pytest.mark.parametrize(
    ("make_model", "message"),
    [
        (lambda: keras.Sequential([layers.Dense(3)]), "built model"),
        (lambda: keras.Sequential([keras.Input((3,))]), "built model"),
        (
            lambda: keras.Sequential(
                [keras.Input((3,)), layers.BatchNormalization()]
            ),
            "at least one kernel",
        ),
        (lambda: "model.keras", "the path 'model.keras'"),
    ],
    ids=["unbuilt", "empty", "no kernel", "not a model"],
)
def test_model_that_cannot_be_quantized_is_refused(make_model, message):
    with pytest.raises(ValueError, match=message):
        codeq_keras.quantize_model(make_model())


def test_nan_weights_are_refused_by_path(cnn):
    kernel = cnn.get_layer("depthwise").kernel
    kernel.assign(keras.ops.full(kernel.shape, float("nan")))

    with pytest.raises(ValueError, match="infinity in 'depthwise/kernel'"):
        codeq_keras.quantize_model(cnn)


def test_quantized_model_is_not_quantized_twice(cnn):
    qmodel = codeq_keras.quantize_model(cnn)

    with pytest.raises(ValueError, match="quantized already"):
        codeq_keras.quantize_model(qmodel)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stem": None}, r"Received: 'stem'. The paths of this model are \["),
        ({"conv[": None}, "must be regular expressions. Received: 'conv\\['"),
        ({"conv": 4}, "must be a CoDeQConfig"),
        (["conv"], r"must be a map .* Received: overrides=\['conv'\]"),
        ("conv", "must be a map .* Received: overrides='conv'"),
        (CoDeQConfig(), "One config for all kernels is `config`"),
        ({layers.Dense(3, name="head"): None}, "Write its name, 'head'"),
        ({1: None}, "must be regular expressions. Received: 1"),
    ],
)
def test_bad_override_is_refused(cnn, overrides, message):
    with pytest.raises(ValueError, match=message):
        codeq_keras.quantize_model(cnn, overrides=overrides)


@pytest.mark.parametrize(
    "regularizer",
    ["l2", 1e-3, keras.regularizers.L2(), codeq_keras.CompressionRegularizer],
)
def test_other_regularizer_is_refused(cnn, regularizer):
    with pytest.raises(ValueError, match="must be a CompressionRegularizer"):
        codeq_keras.quantize_model(cnn, regularizer=regularizer)


@pytest.mark.parametrize(
    "quantizer",
    [
        codeq_keras.DeadZoneQuantizer(CoDeQConfig()),
        layers.Dense(3),
        "dead_zone",
        None,
    ],
)
def test_quantizer_that_is_no_class_is_refused(cnn, quantizer):
    with pytest.raises(ValueError, match="`quantizer` must be a class"):
        codeq_keras.quantize_model(cnn, quantizer=quantizer)


@pytest.mark.parametrize(
    ("model", "remedy"),
    [
        (None, "load_model"),
        ({"model": 1}, "load_model"),
        (layers.Dense(3), "Wrap it"),
        (keras.Sequential, "Make a model of the class"),
    ],
)
def test_what_is_no_model_is_refused_with_a_remedy(model, remedy):
    with pytest.raises(ValueError, match=remedy) as refusal:
        codeq_keras.quantize_model(model)

    assert "tf_keras" not in str(refusal.value)


def test_bits_of_numpy_survive_saving(cnn, tmp_path):
    qmodel = codeq_keras.quantize_model(
        cnn,
        CoDeQConfig(bit_width=np.int64(4)),
        activation_bit_width=np.int64(8),
    )

    qmodel.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")

    assert loaded.config == CoDeQConfig(bit_width=4)
    assert type(qmodel.activation_bit_width) is int
    assert loaded.activation_bit_width == 8


@pytest.mark.parametrize(
    "function",
    [
        codeq_keras.strip_quantizers,
        codeq_keras.quantized_weights,
        codeq_keras.report,
    ],
)
def test_plain_model_is_refused_where_a_quantized_one_is_needed(cnn, function):
    with pytest.raises(ValueError, match="Received: an instance of Sequential"):
        function(cnn)


def test_paper_grid_has_no_codes(cnn):
    qmodel = codeq_keras.quantize_model(cnn, CoDeQConfig(level_grid="paper"))

    with pytest.raises(ValueError, match="Train with 'dead_zone'"):
        codeq_keras.quantized_weights(qmodel)


def test_adapted_normalization_keeps_its_statistics(data):
    normalization = layers.Normalization()
    normalization.adapt(5 + 3 * data[0])
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), normalization, layers.Conv2D(4, 3)]
    )

    off = codeq_keras.quantize_model(model, overrides={"": None})

    np.testing.assert_array_equal(
        off.predict(data[0], verbose=0), model.predict(data[0], verbose=0)
    )


@pytest.mark.parametrize("size", [1e-7, 1e-5, 1e-3])
@pytest.mark.parametrize("bit_width", [2, 4, 8])
def test_codes_of_tiny_weights_do_not_wrap_around(rng, size, bit_width):
    inputs = keras.Input((16,))
    model = keras.Model(inputs, layers.Dense(16, name="tiny")(inputs))
    kernel = model.get_layer("tiny").kernel
    kernel.assign(size * rng.normal(size=(16, 16)))
    qmodel = codeq_keras.quantize_model(model, CoDeQConfig(bit_width=bit_width))

    codes = codeq_keras.quantized_weights(qmodel)["tiny/kernel"].codes

    weights = keras.ops.convert_to_numpy(kernel)
    assert np.all((codes == 0) | (np.sign(codes) == np.sign(weights)))


def test_bfloat16_model_trains(data):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, dtype="bfloat16", name="conv")(inputs)
    x = layers.GlobalAveragePooling2D(dtype="float32")(x)
    qmodel = codeq_keras.quantize_model(keras.Model(inputs, x))

    history = compile_and_fit(
        qmodel, data, callbacks=[codeq_keras.CompressionLogger()]
    )

    assert np.isfinite(history.history["loss"][-1])


def test_model_with_its_own_train_step_is_refused():
    class Contrastive(keras.Model):
        def train_step(self, *args):
            raise AssertionError

    inputs = keras.Input((4,))
    model = Contrastive(inputs, layers.Dense(3)(inputs))

    with pytest.raises(ValueError, match="Keras's own `train_step`"):
        codeq_keras.quantize_model(model)


def test_operation_with_a_layers_name_is_copied():
    x = keras.Input((4,))
    hidden = keras.layers.Dense(4)(x)
    hidden = keras.layers.Add()([hidden + 3.0, hidden])
    model = keras.Model(x, keras.layers.Dense(2)(hidden))

    qmodel = codeq_keras.quantize_model(model)

    assert [kernel.path for kernel in qmodel.kernels] == [
        weight.path for weight in model.weights if weight.name == "kernel"
    ]


def test_number_in_place_of_a_config_is_refused(cnn):
    with pytest.raises(ValueError, match=r"Received: config=4\."):
        codeq_keras.quantize_model(cnn, 4)
