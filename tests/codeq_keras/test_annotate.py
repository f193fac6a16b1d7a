"""TFMOT's vocabulary: annotate while building, apply before training."""

import keras
import numpy as np
import pytest
from keras import layers
from support.custom_model import SubclassedModel
from support.training import compile_and_fit

import codeq_keras
from codeq_keras import (
    CoDeQConfig,
    quantize_annotate_layer,
    quantize_annotate_model,
    quantize_apply,
    quantize_model,
)

EIGHT = CoDeQConfig(bit_width=8, axis=-1)


@pytest.fixture
def x(rng):
    return rng.normal(size=(8, 8, 8, 3)).astype("float32")


def functional(annotate=lambda layer, config=None: layer):
    """A nested and shared model, a composite layer and a branch."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    x = annotate(layers.Conv2D(4, 3, padding="same", name="stem"))(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    block_input = keras.Input((8, 8, 4))
    block = keras.Model(
        block_input,
        annotate(layers.Conv2D(4, 1, name="inner"), EIGHT)(block_input),
        name="block",
    )
    x = layers.Add(name="add")([block(x), block(block(x))])
    x = layers.Reshape((64, 4), name="flat")(x)
    x = annotate(layers.MultiHeadAttention(2, 2, name="attention"))(x, x)
    x = annotate(layers.Bidirectional(layers.GRU(3, name="gru"), name="rnn"))(x)
    head = layers.Dense(3, name="head")(x)
    return keras.Model(inputs, {"head": head, "side": x}, name="net")


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def configs_of(qmodel):
    """The config of each kernel; None where it is left in float."""
    quantizers = [getattr(k, "quantizer", None) for k in qmodel.kernels]
    return [quantizer and quantizer.config for quantizer in quantizers]


def assert_same(actual, expected, x):
    """Same paths, names, configs, weights and outputs."""
    assert [k.path for k in actual.kernels] == [
        k.path for k in expected.kernels
    ]
    assert configs_of(actual) == configs_of(expected)
    pairs = zip(
        actual.latent_model.variables,
        expected.latent_model.variables,
        strict=True,
    )
    for left, right in pairs:
        # Keras numbers the seeds of a copy anew, and does not save them.
        if "seed_generator" not in left.path:
            assert left.path == right.path
            np.testing.assert_array_equal(to_numpy(left), to_numpy(right))
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_array_equal(to_numpy(a), to_numpy(b)),
        actual(x),
        expected(x),
    )


def test_annotations_are_overrides(x):
    overrides = {"^block/inner/kernel$": EIGHT, "^head": None}
    config = CoDeQConfig(bit_width=3)

    annotated = functional(quantize_annotate_layer)

    assert_same(
        quantize_apply(annotated, config),
        quantize_model(functional(), config, overrides=overrides),
        x,
    )


def test_annotated_model_is_quantized_as_a_whole(x):
    assert_same(
        quantize_apply(quantize_annotate_model(functional())),
        quantize_model(functional()),
        x,
    )


def test_annotated_model_keeps_the_configs_of_its_layers(x):
    annotated = quantize_annotate_model(functional(quantize_annotate_layer))

    assert_same(
        quantize_apply(annotated),
        quantize_model(functional(), overrides={"^block/inner": EIGHT}),
        x,
    )


def test_annotated_model_computes_and_trains_as_before(cnn, data):
    annotated = quantize_annotate_model(cnn)

    np.testing.assert_array_equal(
        to_numpy(annotated(data[0])), to_numpy(cnn(data[0]))
    )

    compile_and_fit(annotated, data)
    qmodel = quantize_apply(annotated)

    pairs = zip(qmodel.latent_model.variables, annotated.variables, strict=True)
    for left, right in pairs:
        np.testing.assert_array_equal(to_numpy(left), to_numpy(right))
    compile_and_fit(qmodel, data)


def test_annotations_survive_saving(tmp_path, x):
    annotated = functional(quantize_annotate_layer)
    annotated.save(tmp_path / "annotated.keras")

    loaded = keras.saving.load_model(tmp_path / "annotated.keras")

    assert_same(quantize_apply(loaded), quantize_apply(annotated), x)


def test_clone_function_annotates_as_in_tfmot(cnn, data):
    def only_dense(layer):
        is_dense = isinstance(layer, layers.Dense)
        return quantize_annotate_layer(layer) if is_dense else layer

    annotated = keras.models.clone_model(cnn, clone_function=only_dense)

    qmodel = quantize_apply(annotated)
    assert [c is not None for c in configs_of(qmodel)] == [False, False, True]
    compile_and_fit(qmodel, data)


def test_annotating_a_nested_model_quantizes_all_of_it(cnn, data):
    outer = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            quantize_annotate_layer(cnn, EIGHT),
            layers.Dense(2),
        ]
    )

    rows = codeq_keras.report(quantize_apply(outer)).layers

    assert [row.bit_width for row in rows] == [8, 8, 8, 32]


def test_mask_passes_an_annotated_layer():
    inputs = keras.Input((4,), dtype="int32")
    x = quantize_annotate_layer(layers.Embedding(5, 3, mask_zero=True))(inputs)
    model = keras.Model(inputs, quantize_annotate_layer(layers.LSTM(2))(x))
    padded = model(np.array([[1, 2, 0, 0]]))

    np.testing.assert_allclose(
        to_numpy(padded), to_numpy(model(np.array([[1, 2, 0, 0]])[:, :4])), 0
    )
    shorter = keras.Input((2,), dtype="int32")
    unmasked = keras.Model(shorter, model.layers[-1](model.layers[1](shorter)))
    # Masked steps leave the state alone.
    np.testing.assert_allclose(
        to_numpy(padded), to_numpy(unmasked(np.array([[1, 2]]))), rtol=1e-6
    )


# --- Refusals ---------------------------------------------------------------


def test_annotating_twice_is_refused():
    layer = quantize_annotate_layer(layers.Dense(3, name="head"))

    with pytest.raises(ValueError, match="'head', which is annotated already"):
        quantize_annotate_layer(layer)


def test_wrong_config_is_refused():
    with pytest.raises(ValueError, match="Received: config=4"):
        quantize_annotate_layer(layers.Dense(3), 4)


def test_applying_without_annotations_is_refused(cnn):
    with pytest.raises(ValueError, match=r"Received: 'cnn' without"):
        quantize_apply(cnn)


def test_quantized_model_is_refused(cnn):
    qmodel = quantize_model(cnn)

    for function in (quantize_annotate_model, quantize_apply):
        with pytest.raises(ValueError, match="quantized already"):
            function(qmodel)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf_keras needs TensorFlow"
)
def test_tf_keras_is_refused():
    tf_keras = pytest.importorskip("tf_keras")
    layer = tf_keras.layers.Dense(3)

    with pytest.raises(ValueError, match=r"codeq_keras\.tfmot"):
        quantize_annotate_layer(layer)
    for function in (quantize_annotate_model, quantize_apply):
        with pytest.raises(ValueError, match=r"codeq_keras\.tfmot"):
            function(tf_keras.Sequential([layer]))


def test_subclassed_model_is_refused(x):
    model = SubclassedModel()
    model(x)

    with pytest.raises(ValueError, match=r"Received: .* SubclassedModel"):
        quantize_annotate_model(model)


class Annotating(layers.Layer):
    """Annotates a layer where nobody can take the annotation off."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = quantize_annotate_layer(layers.Dense(3, name="dense"))

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs)


def test_annotation_in_a_constructor_is_refused():
    model = keras.Sequential([keras.Input((4,)), Annotating()])

    with pytest.raises(ValueError, match="inside a class of its own"):
        quantize_apply(model)


@pytest.mark.parametrize("layer", [None, keras.layers.Dense, "dense"])
def test_what_is_no_layer_is_refused_without_a_word_of_keras_2(layer):
    with pytest.raises(ValueError, match="Give the layer itself") as refusal:
        quantize_annotate_layer(layer)

    assert "tf_keras" not in str(refusal.value)
