"""Models that the converter spoils are rewritten, and their files are exact."""

import keras
import numpy as np
import pytest
from keras import layers

import tflite_export
from tflite_export.conversion.rewrites.normalization import (
    NegationFreeGroupNormalization,
    NegationFreeLayerNormalization,
)
from tflite_export.conversion.rewrites.upsampling import ResizingUpSampling2D
from tflite_export.format.flatbuffer import Flatbuffer


@keras.saving.register_keras_serializable(package="tests")
class OwnHead(keras.Model):
    """Creates its layers in code: no config of the model lists them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(16, activation="relu")
        self.bn = layers.BatchNormalization()
        self.ln = layers.LayerNormalization()
        self.steps = layers.GRU(6)
        self.classifier = layers.Dense(5)

    def call(self, inputs, training=None):
        x = self.bn(self.hidden(inputs), training=training)
        y = self.steps(keras.ops.reshape(self.ln(x), (-1, 2, 8)))
        return self.classifier(x) + keras.ops.mean(y, axis=-1, keepdims=True)

    def get_config(self):
        return keras.Layer.get_config(self)


def _batch_norm_heads():
    """Each way from a BatchNormalization into a Dense, side by side."""

    def head(x, *members):
        for member in members:
            x = member(x)
        return x

    vector = keras.Input((8,), name="vector")
    image = keras.Input((4, 4, 3), name="image")
    sequence = keras.Input((6, 8), name="sequence")
    bn, dense = layers.BatchNormalization, layers.Dense
    hidden = dense(12, activation="relu")(vector)
    steps = dense(12, activation="relu")(sequence)
    outputs = [
        head(hidden, bn(), dense(5)),
        head(hidden, bn(), layers.Dropout(0.5), dense(5, activation="relu")),
        head(hidden, bn(), layers.EinsumDense("ab,bc->ac", 5, bias_axes="c")),
        head(
            image,
            layers.Conv2D(8, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            bn(),
            layers.Flatten(),
            dense(16, activation="relu"),
            bn(),
            dense(5, activation="softmax"),
        ),
        head(steps, bn(), dense(5)),
        head(
            steps,
            bn(),
            layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"),
        ),
    ]
    return keras.Model([vector, image, sequence], outputs)


def _float_notes(result):
    return [n for n in result.notes if "float32" in n]


@pytest.mark.parametrize("kind", ["functional", "subclassed"])
def test_batch_norm_before_dense_is_exact(
    grid, export_grid_model, rng, tmp_path, kind
):
    samples = None
    if kind == "functional":
        model = _batch_norm_heads()
    else:
        model = OwnHead()
        model(np.zeros((1, 8)))
        samples = rng.normal(size=(16, 8))
    trained = grid(model, rng)

    result = export_grid_model(model, trained, tmp_path, samples).result

    assert result.verification.codes_equal
    assert result.verification.num_tensors == len(trained)
    assert any("became 1x1 convolutions" in note for note in result.notes)
    assert _float_notes(result) == []
    # A few int8 layers in a row, half a step each, amplified by the gains.
    assert result.verification.p99_output_lsb < 6


def test_rolled_recurrent_layers_are_exact(
    grid, export_grid_model, rng, tmp_path
):
    steps = keras.Input((4, 3))
    members = [
        layers.LSTM(6),
        layers.GRU(4),
        layers.SimpleRNN(5),
        layers.RNN(layers.LSTMCell(3)),
        layers.Bidirectional(layers.GRU(2)),
    ]
    x = layers.LSTM(3, return_sequences=True)(steps)
    outputs = layers.Concatenate()([member(x) for member in members])
    model = keras.Model(steps, layers.Dense(4)(outputs))
    trained = grid(model, rng)

    result = export_grid_model(model, trained, tmp_path).result

    assert result.verification.codes_equal
    assert result.verification.num_tensors == len(trained)
    assert any("were unrolled" in note for note in result.notes)
    assert _float_notes(result) == []
    # Each step rounds its state once more.
    assert result.verification.p99_output_lsb < 8
    assert not any(member.unroll for member in members[:4])


def test_recurrent_dropout_is_exact(grid, export_grid_model, rng, tmp_path):
    steps = keras.Input((4, 3))
    members = [
        layers.GRU(4, recurrent_dropout=0.2),
        layers.LSTM(3, recurrent_dropout=0.2, unroll=True),
        layers.Bidirectional(layers.LSTM(2, recurrent_dropout=0.2)),
        layers.RNN(layers.GRUCell(2, implementation=1)),
    ]
    outputs = layers.Concatenate()([member(steps) for member in members])
    model = keras.Model(steps, layers.Dense(4)(outputs))
    trained = grid(model, rng)

    result = export_grid_model(model, trained, tmp_path).result

    assert result.verification.codes_equal
    assert result.verification.num_tensors == len(trained)
    # Each step rounds its state once more.
    assert result.verification.p99_output_lsb < 8
    assert members[0].cell.implementation == 1


def test_layer_normalization_leaves_nothing_in_float(
    grid, export_grid_model, rng, tmp_path
):
    inputs = keras.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    x = layers.LayerNormalization(name="ln")(layers.Add()([x, inputs]))
    x = layers.GroupNormalization(4)(layers.LayerNormalization(axis=(1, 2))(x))
    outputs = layers.Dense(3)(x)
    model = keras.Model(inputs, outputs)
    trained = grid(model, rng)

    result = export_grid_model(model, trained, tmp_path).result

    assert result.verification.codes_equal
    assert _float_notes(result) == []
    names = {o.name for o in Flatbuffer(result.path.read_bytes()).operators}
    assert not names & {"NEG", "DEQUANTIZE"}
    assert any("without a negation" in note for note in result.notes)


def test_nearest_upsampling_is_one_operator_on_every_target(
    grid, export_grid_model, rng, tmp_path
):
    inputs = keras.Input((4, 6, 3))
    x = layers.UpSampling2D(2, name="up")(inputs)
    model = keras.Model(inputs, layers.Conv2D(4, 3)(x))
    trained = grid(model, rng)

    result = export_grid_model(model, trained, tmp_path).result

    assert result.verification.codes_equal
    # A step for the rounded inputs, and one for the outputs.
    assert result.verification.max_output_lsb <= 2
    names = [o.name for o in Flatbuffer(result.path.read_bytes()).operators]
    assert names.count("RESIZE_NEAREST_NEIGHBOR") == 1
    assert "TILE" not in names
    assert any("became RESIZE_NEAREST_NEIGHBOR" in n for n in result.notes)
    for target in ("tflm", "edgetpu", "ethos-u"):
        assert tflite_export.check(model, target=target).is_ok, target


@pytest.mark.parametrize("size", [2, 4, 8])
def test_upsampling_by_resizing_is_that_of_keras(rng, size):
    x = rng.normal(size=(2, 5, 4, 3)).astype("float32")
    expected = layers.UpSampling2D(size)(x)

    np.testing.assert_array_equal(ResizingUpSampling2D(size)(x), expected)


def test_upsampling_by_a_tile_runs_where_there_is_no_reference_kernel():
    inputs = keras.Input((6, 3))
    x = layers.UpSampling1D(2)(inputs)
    model = keras.Model(inputs, layers.Conv1D(4, 3)(x))

    report = tflite_export.check(model, target="litert")

    assert report.is_ok
    [finding] = report.findings
    assert "reference kernels" in str(finding)


def test_upsampling_that_only_a_tile_brings_to_the_ethos_u_stays_one():
    inputs = keras.Input((4, 6, 3))
    x = layers.UpSampling2D((3, 2))(inputs)
    model = keras.Model(inputs, layers.Conv2D(4, 3)(x))

    assert tflite_export.check(model, target="ethos-u").is_ok


LAYER_NORM = (layers.LayerNormalization, NegationFreeLayerNormalization)
GROUP_NORM = (layers.GroupNormalization, NegationFreeGroupNormalization)


@pytest.mark.parametrize(
    ("classes", "options"),
    [
        (LAYER_NORM, {"axis": -1}),
        (LAYER_NORM, {"axis": 1}),
        (LAYER_NORM, {"axis": (1, 2)}),
        (LAYER_NORM, {"axis": [2], "scale": False}),
        (LAYER_NORM, {"axis": 3}),
        (GROUP_NORM, {"groups": 2}),
        (GROUP_NORM, {"groups": -1, "center": False}),
        (GROUP_NORM, {"groups": 2, "axis": 1}),
    ],
    ids=str,
)
def test_negation_free_normalization_computes_the_same(classes, options, rng):
    shape = (2, 3, 4, 6) if options.get("axis") == 3 else (2, 4, 6)
    x = rng.normal(2, 3, shape).astype("float32")
    expected, actual = (cls(epsilon=1e-2, **options) for cls in classes)
    expected.build(x.shape)
    actual.build(x.shape)
    weights = [rng.normal(size=w.shape) for w in expected.weights]
    expected.set_weights(weights)
    actual.set_weights(weights)

    # float32 rounding of values up to 10.
    np.testing.assert_allclose(actual(x), expected(x), atol=1e-5)
