"""All the usual ways to hold samples give the same arrays."""

import numpy as np
import pytest
import tensorflow as tf

from tflite_export.samples import MAX_SAMPLES, ModelInput, sample_arrays

IMAGE = [ModelInput("image", (2, 3), "float32")]
TWO = [ModelInput("left", (2,), "float32"), ModelInput("right", (), "int32")]
SAMPLES = np.arange(30.0).reshape(5, 2, 3)
LABELS = np.arange(5)


def _arrays(dataset, inputs):
    return sample_arrays(dataset, inputs, argument="samples")


@pytest.mark.parametrize(
    "dataset",
    [
        SAMPLES,
        [SAMPLES],
        {"image": SAMPLES},
        [SAMPLES[:3], SAMPLES[3:]],
        [(SAMPLES[:3], LABELS[:3]), (SAMPLES[3:], LABELS[3:])],
        ((x, y) for x, y in [(SAMPLES, LABELS)]),
        lambda: ([x[None]] for x in SAMPLES),
        tf.data.Dataset.from_tensor_slices(SAMPLES).batch(2),
        tf.data.Dataset.from_tensor_slices((SAMPLES, LABELS)).batch(2),
        tf.constant(SAMPLES),
    ],
    ids=[
        "array",
        "list of one array",
        "dict",
        "list of batches",
        "list of batches with labels",
        "generator with labels",
        "TFLite generator",
        "tf.data",
        "tf.data with labels",
        "tensor",
    ],
)
def test_samples_of_one_input(dataset):
    (array,) = _arrays(dataset, IMAGE)

    assert np.array_equal(array, SAMPLES)
    assert array.dtype == np.float32


@pytest.mark.parametrize(
    "dataset",
    [
        [np.ones((4, 2)), np.arange(4)],
        {"right": np.arange(4), "left": np.ones((4, 2))},
        lambda: ([np.ones((1, 2)), np.array([i])] for i in range(4)),
        [({"left": np.ones((4, 2)), "right": np.arange(4)}, LABELS)],
        [([np.ones((4, 2)), np.arange(4)], LABELS)],
    ],
    ids=["list", "dict", "TFLite generator", "dicts, labels", "lists, labels"],
)
def test_samples_of_two_inputs(dataset):
    left, right = _arrays(dataset, TWO)

    assert np.array_equal(left, np.ones((4, 2)))
    assert np.array_equal(right, np.arange(4))
    assert right.dtype == np.int32


def test_first_samples_of_an_endless_generator_are_taken():
    def endless():
        while True:
            yield SAMPLES

    (array,) = _arrays(endless(), IMAGE)

    assert len(array) == MAX_SAMPLES


def test_open_sizes_come_from_the_samples():
    spec = ModelInput("image", (None, 3), "float32")

    (array,) = _arrays(np.zeros((2, 7, 3)), [spec])

    assert array.shape == (2, 7, 3)


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        (np.zeros((2, 3)), r"\(n, 2, 3\).*\(2, 3\).*Add the batch axis"),
        (np.zeros((5, 3, 2)), r"\(n, 2, 3\) for input 'image'.*\(5, 3, 2\)"),
        (np.full((1, 2, 3), np.nan), r"finite.*6 NaN or infinite"),
        (np.zeros((0, 2, 3)), "at least one sample"),
        (iter(()), "An exhausted generator"),
        ({"picture": SAMPLES}, r"\['image'\].*Received: \['picture'\]"),
        (3, "Received: int"),
    ],
    ids=["no batch", "shape", "nan", "empty", "exhausted", "name", "type"],
)
def test_wrong_samples_are_refused(dataset, text):
    with pytest.raises(ValueError, match=text):
        _arrays(dataset, IMAGE)


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        ([np.ones((4, 2)), np.arange(3)], r"equally many.*\[4, 3\]"),
        ([np.ones((4, 2))], r"2 arrays.*\['left', 'right'\]"),
    ],
    ids=["counts", "one input missing"],
)
def test_wrong_samples_of_two_inputs_are_refused(dataset, text):
    with pytest.raises(ValueError, match=text):
        _arrays(dataset, TWO)


def test_samples_of_several_sizes_are_refused():
    spec = ModelInput("image", (None, 3), "float32")

    with pytest.raises(ValueError, match=r"one shape.*\(2, 3\), \(4, 3\)"):
        _arrays(iter([np.zeros((1, 2, 3)), np.zeros((1, 4, 3))]), [spec])


def test_limit_none_reads_every_sample():
    image = ModelInput("image", (2, 2), "float32")

    [samples] = sample_arrays(
        np.zeros((300, 2, 2)), [image], argument="samples", limit=None
    )

    assert len(samples) == 300
