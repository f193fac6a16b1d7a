"""Models on a trained grid, each converted once for the whole folder."""

from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import layers
from support.plain import export_plain, put_on_grid, random_codes

from codeq_keras import QuantizedWeight
from tflite_export.measuring.export_result import ExportResult


class Exported(NamedTuple):
    """A stripped model, its trained weights, samples and the file."""

    model: keras.Model
    trained: dict
    samples: object
    result: ExportResult


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _zoo():
    """Each kind of layer the exporter must get right, in one conversion."""

    def block(x, layer):
        x = layer(x)
        x = layers.BatchNormalization(name=f"{layer.name}_bn")(x)
        return layers.ReLU()(x)

    image = keras.Input((8, 8, 3), name="image")
    x = block(image, layers.Conv2D(8, 3, padding="same", name="conv"))
    x = layers.Conv2D(8, 3, name="conv_no_bn", activation="relu")(x)
    x = block(x, layers.DepthwiseConv2D(3, name="depthwise"))
    x = layers.DepthwiseConv2D(
        3, padding="same", depth_multiplier=2, name="multiplier"
    )(x)
    x = block(x, layers.Conv2D(8, 1, use_bias=False, name="pointwise"))
    x = layers.Conv2D(8, 3, padding="same", groups=2, name="grouped")(x)
    left = layers.Conv2D(8, 3, padding="same", name="twin_left")(x)
    right = layers.Conv2D(8, 3, padding="same", name="twin_right")(
        layers.ReLU()(x)
    )
    x = layers.Add()([left, right])
    x = layers.Add()([x, layers.Conv2D(8, 1, name="all_zero")(x)])
    x = block(x, layers.Conv2D(8, 3, padding="same", name="per_channel"))
    shared = layers.Conv2D(8, 3, padding="same", name="shared")
    x = shared(layers.ReLU()(shared(x)))
    inner = keras.Input(x.shape[1:])
    y = layers.ReLU()(layers.Conv2D(6, 3, padding="same", name="conv")(inner))
    x = keras.Model(inner, y, name="nested")(x)
    x = layers.Conv2DTranspose(
        4, 3, strides=2, padding="same", name="transpose"
    )(x)
    x = block(x, layers.Conv2D(6, 3, strides=2, name="silent"))
    x = layers.Flatten()(x)
    x = layers.Dense(16, activation="relu", name="dense")(x)
    x = layers.Dense(12, name="dense_bn")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="head_bn")(x))
    x = layers.Dense(10, name="not_quantized")(x)
    x = layers.Dense(10, activation="softmax", name="head")(x)
    return keras.Model(image, x, name="zoo")


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    rng = np.random.default_rng(1)
    model = _zoo()
    twin = random_codes(rng, (3, 3, 8, 8))
    trained = put_on_grid(
        model,
        rng,
        axis=("per_channel/kernel",),
        codes={
            "twin_left/kernel": twin,
            "twin_right/kernel": twin,
            "all_zero/kernel": np.zeros((1, 1, 8, 8), np.int8),
        },
        skip=("not_quantized",),
    )
    gamma = model.get_layer("silent_bn").gamma
    gamma.assign(np.where(np.arange(6) == 2, 0.0, gamma.value.numpy()))
    return exported(model, trained, tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def dense_only(tmp_path_factory):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(12, activation="relu", name="hidden"),
            layers.Dense(1, name="regression"),
        ],
        name="mlp",
    )
    trained = put_on_grid(model, np.random.default_rng(2))
    return exported(model, trained, tmp_path_factory.mktemp("dense"))


def exported(model, trained, folder, samples=None, **options):
    """Exports with dense int8 weights unless `options` say otherwise."""
    if samples is None:
        shapes = [tensor.shape[1:] for tensor in model.inputs]
        rng = np.random.default_rng(3)
        samples = [rng.normal(size=(16, *s)).astype("float32") for s in shapes]
    result = export_plain(
        model,
        trained,
        folder / "model.tflite",
        representative_dataset=samples,
        **{"weight_storage": "int8"} | options,
    )
    return Exported(model, trained, samples, result)


@pytest.fixture(scope="session")
def sparse_convolutions():
    """A model of convolutions at 80 % zeros with a Dense, and its weights."""
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(image)
    x = layers.Conv2D(32, 3, padding="same", name="wide")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(10, name="head")(x), name="sparse")
    rng = np.random.default_rng(4)
    codes = {
        v.path: random_codes(rng, v.shape, sparsity=0.8)
        for v in model.weights
        if "kernel" in v.name
    }
    return model, put_on_grid(model, rng, codes=codes)


@pytest.fixture(scope="session")
def grid():
    """`put_on_grid`, for tests that build a model of their own."""
    return put_on_grid


@pytest.fixture(scope="session")
def export_grid_model():
    """`exported`, for tests that build a model of their own."""
    return exported


@pytest.fixture(scope="session")
def weight():
    """A trained weight of 4 bits, of its codes and scale."""
    return lambda codes, scale: QuantizedWeight(codes, scale, 4, None)
