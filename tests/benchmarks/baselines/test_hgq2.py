"""HGQ2, as the benchmarks take it."""

import keras
import networks
import numpy as np
import pytest
from baselines import hgq2
from harness.training import Training
from harness.workload import Splits, Workload

pytest.importorskip("hgq", reason="needs the extra `hgq2`")


def test_network_is_the_same_architecture():
    model = networks.resnet8()

    converted = hgq2.convert(model)

    kinds = [type(layer).__name__ for layer in converted.layers]
    plain = [type(layer).__name__ for layer in model.layers]
    assert [kind.removeprefix("Q") for kind in kinds] == plain
    assert kinds.count("QConv2D") == plain.count("Conv2D")
    assert kinds.count("QDense") == 1
    x = keras.ops.ones((1, 32, 32, 3))
    assert converted(x).shape == (1, 10)


def test_training_starts_from_the_float_network_and_takes_bits_away():
    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, "relu", name="hidden"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(2, name="logits"),
        ]
    )
    before = [w.copy() for w in net.get_weights()]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(640, 8)).astype("float32")
    y = (x[:, 0] > x[:, 1]).astype("int64")
    workload = Workload(lambda: net, None, "", learning_rate=3e-2)
    split = Splits((x, y), (x, y), (x, y))
    training = Training(workload, split, epochs=20, seed=0)

    def train(relative_bops):
        return hgq2.train(
            net,
            training,
            relative_bops=relative_bops,
            samples=[x[:320], x[320:]],
        )

    free, _, _ = train(1.0)
    model, kernels, bits = train(0.01)

    # 200 steps are not enough to reach it.
    assert hgq2.effective_bops(model) < 0.8 * hgq2.effective_bops(free)
    assert training.evaluate(model, "test") > 0.9
    assert [k.shape for k in kernels] == [b.shape for b in bits]
    assert (kernels[0][bits[0] == 0] == 0).all()
    # What is deployed is what ran, but for the order of float32 sums.
    hidden = model.get_layer("hidden")
    products = np.array(hidden.iq(x)) @ kernels[0]
    np.testing.assert_allclose(
        np.maximum(products + np.array(hidden.qbias), 0.0),
        np.array(hidden(x)),
        atol=1e-5,
    )
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_network_with_other_kernels_is_refused():
    net = networks.ds_cnn()

    with pytest.raises(ValueError, match="Conv2D and Dense"):
        hgq2.train(net, None, relative_bops=0.01, samples=None)
