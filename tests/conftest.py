"""Models and gradients that several test files share."""

import keras
import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def cnn():
    """A CNN with BatchNorm statistics and gammas that are not the initial."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dropout(0.1),
            layers.Dense(3, name="head"),
        ],
        name="cnn",
    )
    values = np.random.default_rng(1)
    for variable in model.get_layer("norm").variables:
        variable.assign(values.uniform(0.5, 1.5, variable.shape))
    return model


@pytest.fixture
def wide_cnn():
    """5,136 weights: on the tiny one, a weight is 0.1 points of BOPs."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


@pytest.fixture
def data(rng):
    """Noise with a brighter channel, which is the label."""
    y = rng.integers(0, 3, 64)
    x = rng.normal(size=(64, 8, 8, 3)) + np.eye(3)[y][:, None, None, :]
    return x.astype("float32"), y
