"""`predict` takes and returns floats, and labels are what they must be."""

import numpy as np
import pytest
from support.foreign import FILES, File

import tflite_export
from tflite_export.format.records import Tensor
from tflite_export.runtime.predicting import accuracy, require_labels


def _head(*shape, name="head"):
    none = np.zeros(0)
    return {name: Tensor(0, name, "int8", shape, None, none, none, 0, 0)}


def test_predictions_are_those_of_the_model(zoo):
    path, images = zoo.result.path, zoo.samples[0][:4]

    outputs = tflite_export.predict(path, images)

    expected = zoo.model.predict(images, verbose=0)
    assert outputs.shape == expected.shape
    assert outputs.dtype == np.float32
    # Activations of the file are rounded to int8.
    np.testing.assert_allclose(outputs, expected, atol=0.05)


def test_inputs_go_by_name_or_in_the_order_of_the_file(zoo):
    path, images = zoo.result.path, zoo.samples[0][:2]

    named = tflite_export.predict(path, {"image": images})

    np.testing.assert_array_equal(named, tflite_export.predict(path, images))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[0], r"shape \(n, 8, 8, 3\).*sample\[None\]"),
        (lambda x: x[:, :4], r"Received shape: \(2, 4, 8, 3\)"),
        (lambda x: x[:0], r"Received shape: \(0, 8, 8, 3\)"),
        (lambda x: x * np.nan, "384 NaN or infinite"),
        (lambda x: x.astype(str), "Expected numbers for input 'image'"),
        (lambda x: {"picture": x}, r"\['image'\]. Received: \['picture'\]"),
    ],
)
def test_wrong_inputs_are_refused_by_name(zoo, change, words):
    images = zoo.samples[0][:2]

    with pytest.raises(ValueError, match=words):
        tflite_export.predict(zoo.result.path, change(images))


def test_a_damaged_file_is_an_error(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(FILES["zero_point_of_uint8"]()[:40])

    with pytest.raises(ValueError, match="Expected a"):
        tflite_export.predict(path, np.zeros((1, 8)))


def test_several_outputs_come_by_name(tmp_path):
    file = File()
    graph = file.graph()
    x = graph.tensor("x")
    outputs = [graph.tensor(name) for name in ("twice", "square")]
    graph.operator("ADD", [x, x], [outputs[0]])
    graph.operator("MUL", [x, x], [outputs[1]])
    graph.ends([x], outputs)
    path = tmp_path / "model.tflite"
    path.write_bytes(file.to_bytes())
    values = np.arange(16, dtype=np.float32).reshape(2, 8)

    found = tflite_export.predict(path, values)

    np.testing.assert_array_equal(found["twice"], 2 * values)
    np.testing.assert_array_equal(found["square"], values**2)


def test_accuracy_counts_the_largest_output():
    outputs = {"head": np.eye(4, 5)}

    assert accuracy(outputs, np.array([0, 1, 2, 4])) == 0.75


@pytest.mark.parametrize(
    ("labels", "outputs", "words"),
    [
        ([0, 1], _head(1, 5), r"shape \(3,\).*There are 3 samples"),
        ([[1], [2], [3]], _head(1, 5), r"Give `labels\[..., 0\]`"),
        (np.eye(3, 5), _head(1, 5), "one-hot: give `labels.argmax"),
        ([0.0, 1.0, 2.0], _head(1, 5), "dtype float64.*astype"),
        ([1, 2, 5], _head(1, 5), r"in \[0, 4\].*Received: 1 to 5"),
        ([-1, 2, 3], _head(1, 5), r"Received: -1 to 3. Count them from 0"),
        ([0, 1, 1], _head(1, 1), "several classes"),
        ([0, 1, 1], _head(1, 2) | _head(1, 2, name="b"), "one output"),
    ],
)
def test_wrong_labels_are_refused_by_name(labels, outputs, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        require_labels(labels, outputs, 3)
