import itertools

import keras
import networks
import numpy as np
import pytest

from codeq_keras.deployment import find_kernels


@pytest.mark.parametrize(
    ("build", "num_parameters"),
    [
        # MLPerf Tiny's reference models, submitters' `model.summary()`.
        (networks.resnet8, 78_666),
        (networks.ds_cnn, 24_908),
        (networks.fc_autoencoder, 269_992),
    ],
    ids=["resnet8", "ds_cnn", "fc_autoencoder"],
)
def test_network_has_the_parameters_of_mlperf_tiny(build, num_parameters):
    assert build().count_params() == num_parameters


@pytest.mark.parametrize(
    ("build", "application"),
    [
        (networks.mobilenet_v1, keras.applications.MobileNet),
        (networks.mobilenet_v2, keras.applications.MobileNetV2),
    ],
    ids=["v1", "v2"],
)
def test_mobilenet_has_the_parameters_of_keras_applications(build, application):
    ours = build(alpha=0.5, input_shape=(96, 96, 3), classes=10)
    theirs = application(
        alpha=0.5, input_shape=(96, 96, 3), classes=10, weights=None
    )

    assert ours.count_params() == theirs.count_params()


@pytest.mark.parametrize(
    "build", [networks.mobilenet_v1, networks.mobilenet_v2], ids=["v1", "v2"]
)
def test_every_strided_convolution_of_a_mobilenet_pads_symmetrically(build):
    model = build(alpha=0.25, input_shape=(96, 96, 3), classes=10)
    convs = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    pairs = [
        (before, layer)
        for before, layer in itertools.pairwise(model.layers)
        if isinstance(layer, convs) and layer.strides != (1, 1)
    ]

    assert len(pairs) == 5  # 96 pixels become 3.
    for before, layer in pairs:
        assert isinstance(before, keras.layers.ZeroPadding2D)
        assert before.padding == ((1, 1), (1, 1))
        assert layer.padding == "valid"


@pytest.mark.parametrize("build", [networks.resnet8, networks.resnet20])
def test_resnet_with_a_strided_stem_has_the_same_kernels(build):
    small, full = build(stem_strides=2), build()

    assert [w.shape for w in small.weights] == [w.shape for w in full.weights]


def test_vit_has_the_documented_number_of_parameters():
    model = networks.vit()

    assert f"{model.count_params():,} parameters" in networks.vit.__doc__


def test_resnet18_has_the_parameters_of_the_paper_and_biases():
    # 11,689,512 are known from other frameworks, which have no biases, and
    # BatchNorms in the shortcuts.
    model = networks.resnet18()

    biases = sum(w.shape[0] for w in model.weights if w.name == "bias") - 1000
    shortcuts = 2 * (128 + 256 + 512)
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert trainable == 11_689_512 + biases - shortcuts


def test_widths_are_scaled_to_the_nearest_multiple_and_never_to_none():
    assert networks.scaled((16, 24, 64), 0.7) == (8, 16, 48)
    assert networks.scaled((16, 64), 0.1) == (8, 8)
    assert networks.scaled((16, 64), 0.5, multiple=16) == (16, 32)


def _macs(model):
    return sum(kernel.num_macs for kernel in find_kernels(model))


def test_small_mobilenet_has_the_documented_weights():
    kernels = find_kernels(networks.small_mobilenet())

    num_weights = sum(kernel.num_weights for kernel in kernels)
    assert f"{num_weights:,} weights" in networks.small_mobilenet.__doc__


@pytest.mark.parametrize(
    ("wide", "narrow", "fraction"),
    [
        (networks.resnet8(), networks.resnet8(widths=(8, 16, 32)), 0.26),
        (networks.ds_cnn(), networks.ds_cnn(width=48), 0.61),
        (
            networks.small_mobilenet(),
            networks.small_mobilenet(widths=(8, 16, 16, 24, 32, 48, 48)),
            0.31,
        ),
    ],
    ids=["resnet8", "ds_cnn", "small_mobilenet"],
)
def test_narrower_networks_take_the_share_of_the_macs(wide, narrow, fraction):
    assert _macs(narrow) / _macs(wide) == pytest.approx(fraction, abs=0.01)
