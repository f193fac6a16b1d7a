"""Multiply-accumulates counted in the file are those of the model."""

import keras
import networks
import numpy as np
import pytest
from keras import layers
from support.foreign import File

import codeq_keras
from tflite_export import export, inspect
from tflite_export.format.damaged import DamagedFileError
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.macs import count_macs

# Operator, inputs in order, output, options, and the number by hand.
BY_HAND = {
    "conv": ("CONV_2D", [(1, 9, 9, 4), (8, 3, 3, 4)], (1, 4, 4, 8), {}, 4608),
    "grouped": ("CONV_2D", [(1, 4, 4, 8), (6, 1, 1, 4)], (1, 4, 4, 6), {}, 384),
    "depthwise": (
        "DEPTHWISE_CONV_2D",
        [(1, 5, 5, 3), (1, 3, 3, 6)],
        (1, 3, 3, 6),
        {},
        486,
    ),
    "dense": ("FULLY_CONNECTED", [(1, 7, 8), (3, 8)], (1, 7, 3), {}, 168),
    "transposed": (
        "TRANSPOSE_CONV",
        [(4,), (5, 2, 2, 3), (1, 4, 4, 3)],
        (1, 8, 8, 5),
        {},
        960,
    ),
    "product": ("BATCH_MATMUL", [(2, 3, 4), (2, 4, 5)], (2, 3, 5), {}, 120),
    "turned": (
        "BATCH_MATMUL",
        [(2, 4, 3), (2, 4, 5)],
        (2, 3, 5),
        {"options": "BatchMatMul", "adjX": True},
        120,
    ),
    "volume": (
        "CONV_3D",
        [(1, 4, 4, 4, 2), (2, 2, 2, 2, 3)],
        (1, 3, 3, 3, 3),
        {},
        1296,
    ),
    "sum": ("ADD", [(1, 8), (1, 8)], (1, 8), {}, 0),
}


def one_operator(name, inputs, output, options):
    file = File()
    graph = file.graph()
    places = [
        graph.tensor(f"input_{n}", shape=shape)
        for n, shape in enumerate(inputs)
    ]
    last = graph.tensor("output", shape=output)
    graph.operator(name, places, [last], **options)
    graph.ends(places, [last])
    return file.to_bytes()


@pytest.mark.parametrize("name", BY_HAND)
def test_an_operator_has_the_number_that_a_hand_counts(name, tmp_path):
    *arguments, expected = BY_HAND[name]
    path = tmp_path / "model.tflite"
    path.write_bytes(one_operator(*arguments))

    inspection = inspect(path)

    assert inspection.macs == inspection.to_dict()["macs"] == expected
    assert f"{expected:,} MACs" in str(inspection)


@pytest.mark.parametrize(
    "name", ["ethos-u", "UNIDIRECTIONAL_SEQUENCE_LSTM", "WHILE"]
)
def test_a_file_that_hides_its_products_has_no_number(name, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(one_operator(name, [(1, 8)], (1, 8), {}))

    assert inspect(path).macs is None
    assert "MACs" not in str(inspect(path))


@pytest.mark.parametrize(
    "inputs", [[(1, 4, 4, 2)], [(1, 4), (2, 2)]], ids=["missing", "flat"]
)
def test_a_convolution_without_its_weights_is_a_damaged_file(inputs):
    data = one_operator("CONV_2D", inputs, (1, 4, 4, 2), {})

    with pytest.raises(DamagedFileError, match="CONV_2D"):
        count_macs(Flatbuffer(data))


NETWORKS = {
    "resnet8": networks.resnet8,
    "ds_cnn": networks.ds_cnn,
    "mobilenet_v2": lambda: networks.mobilenet_v2(
        alpha=0.35, input_shape=(32, 32, 3), classes=10
    ),
    "upsampling": lambda: keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2DTranspose(3, 3, strides=2),
            layers.SeparableConv2D(5, 3),
            layers.Flatten(),
            layers.Dense(2),
        ]
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_file_has_the_number_of_the_report(name, tmp_path):
    model = NETWORKS[name]()
    qmodel = codeq_keras.quantize_model(model)
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(2, *model.input_shape[1:])).astype("float32")
    path = tmp_path / "model.tflite"

    export(qmodel, path, representative_dataset=samples)

    kernels = codeq_keras.report(qmodel).layers
    assert inspect(path).macs == sum(kernel.num_macs for kernel in kernels)
