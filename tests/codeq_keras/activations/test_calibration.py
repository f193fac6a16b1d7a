"""Ranges by samples, without a training."""

import keras
import numpy as np
import pytest

import codeq_keras


@pytest.fixture
def qmodel(cnn):
    return codeq_keras.quantize_model(cnn, activation_bit_width=8)


def state(qmodel):
    """All variables but those of the ranges."""
    ranges = {id(v) for q in qmodel.activation_quantizers for v in q.variables}
    return [
        np.array(keras.ops.convert_to_numpy(v))
        for v in qmodel.variables
        if id(v) not in ranges
    ]


def test_ranges_are_those_of_the_first_steps_of_a_training(qmodel, data):
    x = data[0]

    codeq_keras.calibrate_activations(qmodel, x)

    ranges = codeq_keras.activation_ranges(qmodel)
    assert None not in ranges.values()
    [first, *_] = ranges.values()
    lows = [x[i : i + 32].min() for i in (0, 32)]
    assert first.low == pytest.approx(np.mean(lows), abs=first.scale / 2)
    [quantizer, *_] = qmodel.activation_quantizers
    assert float(quantizer.num_updates) == 2


def test_nothing_but_the_ranges_is_changed(qmodel, data):
    before = state(qmodel)

    codeq_keras.calibrate_activations(qmodel, data[0])

    for left, right in zip(state(qmodel), before, strict=True):
        np.testing.assert_array_equal(left, right)


def test_calibrated_model_computes_as_the_stripped_one(qmodel, data):
    x = data[0]
    plain = codeq_keras.strip_quantizers(qmodel)(x, training=False)

    codeq_keras.calibrate_activations(qmodel, x)

    outputs = keras.ops.convert_to_numpy(qmodel(x, training=False))
    assert not np.array_equal(outputs, keras.ops.convert_to_numpy(plain))
    # Random weights, four rounded layers, and ranges that clip the outliers.
    error = np.abs(outputs - plain).max() / np.ptp(outputs)
    assert error < 0.1


def test_training_goes_on_from_the_ranges(qmodel, data):
    codeq_keras.calibrate_activations(qmodel, data[0])
    [quantizer, *_] = qmodel.activation_quantizers
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))

    qmodel.fit(*data, verbose=0)

    assert float(quantizer.num_updates) == 2 + 2


def batches(x):
    yield x[:32], np.zeros(32)
    yield x[32:], np.zeros(32)


def tf_data(x):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(x).batch(32)


class Numbered(keras.utils.PyDataset):
    """Batches by number."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 2

    def __getitem__(self, number):
        return self.x[number * 32 :][:32], np.zeros(32)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: [x],
        lambda x: [x[:32], x[32:]],
        lambda x: {"image": x},
        batches,
        tf_data,
        Numbered,
        lambda x: lambda: batches(x),
        lambda x: lambda: x,
        lambda x: (x,),
    ],
    ids=[
        "list",
        "list of batches",
        "dict",
        "generator",
        "tf.data",
        "PyDataset",
        "function of batches",
        "function of an array",
        "tuple of the inputs",
    ],
)
def test_samples_of_every_form_give_the_same(data, form):
    inputs = keras.Input((8, 8, 3), name="image")
    outputs = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    model = keras.Model(inputs, outputs)
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    codeq_keras.calibrate_activations(qmodel, data[0])
    expected = codeq_keras.activation_ranges(qmodel)

    codeq_keras.calibrate_activations(qmodel, form(data[0]))

    assert codeq_keras.activation_ranges(qmodel) == expected


def test_inputs_by_name_go_where_they_belong(rng):
    inputs = [keras.Input((4,), name=name) for name in ("b", "a")]
    outputs = keras.layers.Dense(2)(keras.layers.Concatenate()(inputs))
    model = keras.Model(inputs, outputs)
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    x = rng.uniform(0, 1, (8, 4))

    codeq_keras.calibrate_activations(qmodel, {"a": 100 * x, "b": x})

    ranges = codeq_keras.activation_ranges(qmodel)
    assert ranges["a"].high > 10 > ranges["b"].high


def test_batches_by_name_go_where_they_belong(rng):
    inputs = [
        keras.Input((size,), name=name) for size, name in ((4, "b"), (3, "a"))
    ]
    outputs = keras.layers.Dense(2)(keras.layers.Concatenate()(inputs))
    model = keras.Model(inputs, outputs)
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    b, a = rng.uniform(0, 1, (8, 4)), rng.uniform(0, 100, (8, 3))

    codeq_keras.calibrate_activations(qmodel, [{"a": a, "b": b}] * 2)

    ranges = codeq_keras.activation_ranges(qmodel)
    assert ranges["a"].high > 10 > ranges["b"].high


BAD = {
    "none": (lambda x: x[:0], "at least one sample"),
    "no batches": (lambda x: [], "at least one sample"),
    "NaN": (lambda x: np.where(x > 0, np.nan, x), "NaN or infinity for input"),
    "one image": (lambda x: x[0], "an axis of samples in front"),
    "list of images": (lambda x: list(x), "np.stack"),
    "tf.data of images": (lambda x: tf_data(x).unbatch(), r"\.batch\(32\)"),
    "with labels": (lambda x: (x, np.zeros(len(x))), r"samples\[0\]"),
    "many, with labels": (
        lambda x: (np.repeat(x, 32, axis=0), np.zeros(32 * len(x))),
        r"samples\[0\]",
    ),
    "many, and labels in a list": (
        lambda x: [np.repeat(x, 32, axis=0), np.zeros(32 * len(x))],
        r"Received: \[\(2048,\)\]",
    ),
    "nested lists": (lambda x: x.tolist(), "np.asarray"),
    "dict of nested lists": (lambda x: {"image": x.tolist()}, "np.asarray"),
    "function of nothing": (lambda x: lambda: None, "Received: NoneType"),
    "other name": (lambda x: {"other": x}, "one entry for each input"),
    "number": (lambda x: 3, "Received: int"),
    "too large": (lambda x: np.full_like(x, 3e38), "NaN or infinity at"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_unfit_samples_are_refused_and_leave_the_ranges(
    qmodel, data, change, message
):
    codeq_keras.calibrate_activations(qmodel, data[0])
    before = codeq_keras.activation_ranges(qmodel)

    with pytest.raises(ValueError, match=message):
        codeq_keras.calibrate_activations(qmodel, change(data[0]))

    assert codeq_keras.activation_ranges(qmodel) == before


def test_float_activations_and_frozen_ranges_are_refused(cnn, qmodel, data):
    floats = codeq_keras.quantize_model(cnn)
    with pytest.raises(ValueError, match="activation_bit_width=None"):
        codeq_keras.calibrate_activations(floats, data[0])
    qmodel.trainable = False
    with pytest.raises(ValueError, match="a frozen model"):
        codeq_keras.calibrate_activations(qmodel, data[0])
