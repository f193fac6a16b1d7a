"""Tokens, categories and positions stay integers on their way to a file."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import codeq_keras
import tflite_export
from tflite_export.format.flatbuffer import Flatbuffer

NUM_SAMPLES = 32
WORDS = 1000
CATEGORIES = 50


def _category():
    x = keras.Input((1,), dtype="int32", name="x")
    encoding = layers.CategoryEncoding(CATEGORIES, output_mode="one_hot")
    return x, encoding(x), CATEGORIES


def _float_tokens():
    x = keras.Input((6,), name="x")
    return x, layers.Embedding(WORDS, 8)(x), WORDS


def _moved_tokens():
    x = keras.Input((2, 3), name="x")
    tokens = layers.Reshape((6,))(layers.Permute((2, 1))(x))
    return x, layers.Embedding(WORDS, 8)(tokens), WORDS


def _one_hot_of_a_cast():
    x = keras.Input((6,), name="x")
    return x, ops.one_hot(ops.cast(x, "int32"), CATEGORIES), CATEGORIES


def _taken_rows():
    x = keras.Input((6,), name="x")
    rows = np.linspace(-1, 1, 8 * WORDS, dtype="float32").reshape(WORDS, 8)
    return x, ops.take(rows, ops.cast(x, "int32"), axis=0), WORDS


class Lookup(layers.Layer):
    """Casts to float and back where no graph of Keras shows it."""

    def build(self, input_shape):
        self.table = self.add_weight(shape=(WORDS, 8), name="embeddings")

    def call(self, inputs):
        moved = ops.reshape(ops.cast(inputs, "float32"), (-1, 6))
        return ops.take(self.table, ops.cast(moved, "int32"), axis=0)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 6, 8)


def _custom_layer():
    x = keras.Input((2, 3), dtype="int32", name="x")
    return x, Lookup()(x), WORDS


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize(
    "build",
    [_category, _float_tokens, _moved_tokens, _one_hot_of_a_cast, _taken_rows,
     _custom_layer],
)  # fmt: skip
def test_the_file_reads_the_indices_of_the_model(build, bits, tmp_path):
    keras.utils.set_random_seed(0)
    x, features, size = build()
    head = layers.Dense(3, name="head")(layers.Flatten()(features))
    qmodel = codeq_keras.quantize_model(
        keras.Model(x, head), activation_bit_width=bits
    )
    shape = (NUM_SAMPLES, *x.shape[1:])
    samples = np.random.default_rng(0).integers(0, size, shape)
    samples.flat[0] = size - 1
    qmodel(samples.astype(x.dtype), training=True)

    result = tflite_export.export(
        qmodel, tmp_path / "model.tflite", representative_dataset=samples
    )

    # Half a step of the head, and of the tensor in front of it.
    assert result.verification.max_output_lsb <= 2
    file = Flatbuffer(result.path.read_bytes())
    assert file.inputs()["x"].dtype == "int32"


@pytest.mark.parametrize("build", [_float_tokens, _one_hot_of_a_cast])
def test_8_bits_in_training_look_up_the_same_words(build):
    keras.utils.set_random_seed(0)
    x, features, size = build()
    model = keras.Model(x, features)
    samples = np.arange(size - size % 6).reshape(-1, 6).astype("float32")
    graph = codeq_keras.activations.graph.ActivationGraph(model)
    expected = keras.ops.convert_to_numpy(model(samples))
    step = np.ptp(expected) / 255

    actual = keras.ops.convert_to_numpy(graph(samples, training=True))

    np.testing.assert_allclose(actual, expected, rtol=0, atol=step)


def _positions(tokens):
    mask = ops.cast(ops.not_equal(tokens, 0), "float32")
    return ops.cumsum(mask, axis=1) * mask


def _shifted(tokens):
    return ops.cast(tokens, "float32") - 1


@pytest.mark.parametrize("compute", [_positions, _shifted])
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_indices_that_are_computed_in_float_are_refused(compute, dtype):
    x = keras.Input((6,), dtype=dtype, name="x")
    words = layers.Embedding(WORDS, 8, name="words")(compute(x))
    model = keras.Model(x, layers.Dense(3)(layers.Flatten()(words)))

    with pytest.raises(ValueError, match=r"'words'.*Input\(.*int32"):
        codeq_keras.quantize_model(model, activation_bit_width=8)
    report = tflite_export.check(model)
    assert not report.is_ok
    assert 'dtype="int32"' in str(report)


def test_an_input_that_is_index_and_number_is_refused():
    x = keras.Input((6,), name="x")
    words = layers.Flatten()(layers.Embedding(WORDS, 8, name="words")(x))
    model = keras.Model(x, layers.Dense(3)(layers.Concatenate()([x, words])))

    with pytest.raises(ValueError, match="'words'"):
        codeq_keras.quantize_model(model, activation_bit_width=8)
    assert 'dtype="int32"' in str(tflite_export.check(model))


def test_a_number_that_is_rounded_to_a_bucket_is_not_refused():
    x = keras.Input((6,), name="x")
    buckets = layers.Embedding(200, 8)(ops.floor(x * 10))
    model = keras.Model(x, layers.Dense(3)(layers.Flatten()(buckets)))
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)

    assert tflite_export.check(qmodel).is_ok
