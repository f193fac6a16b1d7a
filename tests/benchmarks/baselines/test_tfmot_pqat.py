"""The TFMOT baseline of the accuracy benchmark."""

import keras
import numpy as np
import pytest
from baselines import tfmot_pqat


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        rng = np.random.default_rng(index)
        x = rng.normal(size=(8, 6, 6, 2)).astype("float32")
        return x, (x.mean((1, 2, 3)) > 0).astype("int64")


@pytest.mark.slow
def test_pqat_keeps_what_it_pruned_and_leaves_the_float_model_alone():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(8, 3, name="conv")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    net = keras.Model(inputs, keras.layers.Dense(2, name="dense")(x))
    before = [w.copy() for w in net.get_weights()]
    model, kernels = tfmot_pqat.train(
        net, Batches, density=0.25, epochs=4, learning_rate=1e-3
    )
    assert [k.shape for k in kernels] == [(3, 3, 2, 8), (8, 2)]
    for kernel in kernels:
        # Rounding to zero adds to the pruned ones; at most a few of 144.
        assert 0.15 <= np.mean(kernel != 0) <= 0.26
    assert model.predict(np.zeros((1, 6, 6, 2)), verbose=0).shape == (1, 2)
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
