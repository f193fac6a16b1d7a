"""Networks with random integers."""

import keras
import numpy as np
import pytest
from harness import files


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

    weights = files.put_on_grid(
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


def test_zeros_come_in_blocks_of_neighbouring_channels():
    rng = np.random.default_rng(0)

    codes = files.block_codes(rng, (1, 1, 200, 8), 0.8, block=4)

    blocks = np.abs(codes.reshape(-1, 4))
    assert set((blocks > 0).sum(1)) == {0, 4}
    # One standard error of 400 blocks is 0.02.
    assert abs(np.mean(codes == 0) - 0.8) < 0.06
    assert blocks.max() <= 7
