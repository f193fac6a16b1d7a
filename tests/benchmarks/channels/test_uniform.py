"""One-shot removal takes the channels that matter least."""

import keras
import networks
import numpy as np
import pytest
from channels import uniform
from channels.cases import CASES, narrow_widths, num_macs

from codeq_keras.architecture.channels import find_channels


def chain() -> keras.Model:
    inputs = keras.Input((5, 5, 2))
    x = keras.layers.Conv2D(4, 3, use_bias=False, name="first")(inputs)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(3, 1, use_bias=False, name="second")(x)
    return keras.Model(inputs, x)


def test_energy_is_that_of_activations_and_weights_together():
    net, rng = chain(), np.random.default_rng(0)
    first, second = (net.get_layer(n) for n in ("first", "second"))
    first.kernel.assign(rng.normal(size=(3, 3, 2, 4)))
    x = rng.normal(size=(6, 5, 5, 2)).astype("float32")

    energies = uniform.channel_energies(net, find_channels(net), x)

    hidden = keras.Model(net.inputs, second.input).predict(x, verbose=0)
    weights = second.kernel.numpy()
    # Without crossed terms, the energy of the outputs is the sum of these.
    expected = [
        (weights[..., c, :] ** 2).sum() * (hidden[..., c] ** 2).mean()
        for c in range(4)
    ]
    [found] = [energy for energy in energies if len(energy) == 4]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_least_used_channels_go_and_the_others_keep_their_weights():
    net = chain()
    kernel = np.ones((1, 1, 4, 3), "float32")
    kernel[..., (1, 2), :] = 1e-3
    net.get_layer("second").kernel.assign(kernel)
    x = np.random.default_rng(0).normal(size=(6, 5, 5, 2)).astype("float32")
    net.get_layer("first").kernel.assign(np.full((3, 3, 2, 4), 0.1))

    small = uniform.remove_uniformly(net, x, {4: 2})

    assert small.get_layer("second").kernel.shape == (1, 1, 2, 3)
    np.testing.assert_allclose(
        small.predict(x, verbose=0), net.predict(x, verbose=0), atol=0.05
    )


def test_removal_leaves_the_network_that_is_trained_from_scratch():
    case = CASES["fashion_mobilenet"]
    sizes = narrow_widths(case, 0.5)
    wide = networks.small_mobilenet()
    x = np.random.default_rng(0).random((8, 28, 28, 1), "float32")

    removed = uniform.remove_uniformly(wide, x, sizes)

    narrow = case.build(widths=case.narrowed(sizes))
    assert [w.shape for w in removed.weights] == [
        w.shape for w in narrow.weights
    ]
    assert num_macs(narrow) / num_macs(wide) == pytest.approx(0.5, abs=0.03)
