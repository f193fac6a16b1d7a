"""Trained ranges that no runtime can compute with, and the converter's log."""

import keras
import numpy as np
import pytest
from keras import layers

import codeq_keras
import tflite_export
from codeq_keras import ActivationRange
from tflite_export.conversion.converter import _failure
from tflite_export.conversion.graphs import MAX_RATIO_IN_SUMS, usable_ranges

DEAD = ActivationRange(1 / 255, -128, is_dead=True)
TINY = ActivationRange(1e-9, 0)
NOISE = (
    "WARNING: All log messages before absl::InitializeLog() is called are "
    "written to STDERR\n"
    "E0000 00:00:1 19975 cuda_platform.cc:52] failed call to cuInit: INTERNAL\n"
)


@pytest.mark.parametrize("join", [layers.Add, layers.Subtract])
def test_a_dead_branch_beside_a_tiny_one_is_exported(join, tmp_path):
    # LiteRT aborts where a term has 2**19 times the scale of the sum.
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="x")
    tiny = layers.Dense(4, name="tiny")(layers.Rescaling(3e-7)(x))
    dead = layers.Dense(4, kernel_initializer="zeros", name="dead")(x)
    outputs = layers.Dense(3, name="head")(join(name="sum")([tiny, dead]))
    model = keras.Model(x, outputs)
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    samples = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    qmodel(samples, training=True)

    result = tflite_export.export(
        qmodel, tmp_path / "model.tflite", representative_dataset=samples
    )

    assert result.verification.max_output_lsb <= 1
    assert any("'dead'" in note for note in result.notes)


def test_a_dead_term_gets_no_smaller_scale_than_the_sum_needs():
    ranges = {"dead": DEAD, "tiny": TINY, "sum": TINY}

    usable = usable_ranges(ranges, [(["dead", "tiny"], "sum")])

    assert usable["tiny"] == usable["sum"] == TINY
    ratio = usable["dead"].scale / TINY.scale
    assert MAX_RATIO_IN_SUMS / 4 < ratio < MAX_RATIO_IN_SUMS


def test_usable_ranges_stay():
    ranges = {"dead": DEAD, "one": ActivationRange(0.01, 3), "unseen": None}

    sums = [(["dead", "one"], "one"), (["unseen"], "unseen")]
    assert usable_ranges(ranges, sums) == ranges


def test_a_live_term_far_above_its_sum_is_refused_by_name():
    ranges = {"body/conv": ActivationRange(0.1, 0), "body/sum": TINY}

    with pytest.raises(ValueError, match=r"'body/conv'.*'body/sum'"):
        usable_ranges(ranges, [(["body/conv"], "body/sum")])


def test_a_failure_names_no_cause_that_is_not_there():
    text = _failure(-6, NOISE, has_loop=False)

    assert "signal 6" in text
    assert not any(word in text for word in ("Recurrent", "unroll"))
    assert not any(word in text for word in ("cuda", "absl"))


def test_a_failure_names_the_loop_and_the_operator():
    assert "unroll=True" in _failure(-11, NOISE, has_loop=True)
    log = NOISE + 'error: failed\nTF Select ops: "DenseBincount"\n'
    text = _failure(1, log, has_loop=False)
    assert "int8 operator" in text
    assert "DenseBincount" in text
    assert "unroll" not in text


def _lookup(tokens, table):
    return layers.Flatten()(table(tokens))


def _joined_lookup(tokens, table):
    words = layers.Flatten()(table(tokens))
    return layers.Concatenate()([words, words])


@pytest.mark.parametrize("read", [_lookup, _joined_lookup])
def test_words_that_no_range_has_seen_are_in_the_file(read, tmp_path):
    keras.utils.set_random_seed(0)
    tokens = keras.Input((6,), dtype="int32", name="x")
    table = layers.Embedding(100, 8, name="words")
    model = keras.Model(tokens, layers.Dense(3)(read(tokens, table)))
    # The words of the training are the small ones.
    table.embeddings.assign(
        table.embeddings * np.linspace(0.1, 3, 100)[:, None]
    )
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    qmodel(np.arange(60).reshape(10, 6), training=True)

    result = tflite_export.export(
        qmodel,
        tmp_path / "model.tflite",
        representative_dataset=np.arange(96).reshape(16, 6),
    )

    assert result.verification.codes_equal
    # Unseen words are clipped in both; ties of their rounding add up.
    assert result.verification.max_output_lsb <= 2.5


def _rescaled(number):
    return layers.Rescaling(1 / 9)(number)


def _normalized(number):
    return layers.BatchNormalization()(number)


def _turned(number):
    return layers.Permute((2, 1))(layers.Reshape((2, 4))(number))


def _joined(number):
    return layers.Concatenate()([number, number[:, 2:]])


def cast_model(move, last):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,), dtype="uint8", name="x")
    moved = layers.Flatten()(move(keras.ops.cast(inputs, "float32")))
    model = keras.Model(inputs, last(layers.Dense(3)(moved)))
    numbers = np.random.default_rng(0).normal(0, 9, (160, 8))
    samples = np.abs(numbers).astype("uint8")
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    codeq_keras.calibrate_activations(qmodel, samples)
    return qmodel, samples


@pytest.mark.parametrize("move", [_rescaled, _normalized, _turned])
def test_numbers_of_an_integer_input_keep_their_trained_range(move, tmp_path):
    # The mean of the largest values, which is less than the largest.
    qmodel, samples = cast_model(move, layers.ReLU())

    result = tflite_export.export(
        qmodel, tmp_path / "model.tflite", representative_dataset=samples
    )

    assert result.verification.codes_equal
    assert result.verification.max_output_lsb <= 1


@pytest.mark.parametrize(
    ("move", "last"),
    [(_turned, layers.LayerNormalization), (_joined, layers.ReLU)],
)
def test_casts_that_the_converter_cannot_join_or_measure_are_refused(
    move, last, tmp_path
):
    qmodel, samples = cast_model(move, last())

    with pytest.raises(RuntimeError, match="make it a float input"):
        tflite_export.export(
            qmodel, tmp_path / "model.tflite", representative_dataset=samples
        )
