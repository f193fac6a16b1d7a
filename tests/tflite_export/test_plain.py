"""Networks with random integers, as the tests of the export take them."""

import keras
import numpy as np
import pytest
from support.plain import put_on_grid


@pytest.fixture
def model():
    image = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(4, 1, name="pointwise")(image)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    return keras.Model(image, x)


def test_kernels_are_codes_times_scale(model):
    rng = np.random.default_rng(0)
    codes = {"pointwise/kernel": np.full((1, 1, 2, 4), 7, "int8")}

    weights = put_on_grid(
        model, rng, axis=["pointwise/kernel"], codes=codes, skip=["conv"]
    )

    [(path, weight)] = weights.items()
    assert path == "pointwise/kernel"
    assert weight.scale.shape == (1, 1, 1, 4)
    assert weight.axis == (3,)
    assert np.array_equal(weight.codes, codes[path])
    np.testing.assert_array_equal(
        weight.dequantize(), np.array(model.get_layer("pointwise").kernel)
    )
