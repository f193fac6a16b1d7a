"""A narrow copy computes what the model does from the channels that stay."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from keras import layers
from support.random_networks import (
    BLOCKS,
    RandomNetwork,
    Step,
    build,
    disturb,
    images,
    kill,
    random_networks,
)

from codeq_keras.architecture.channels import find_channels
from codeq_keras.architecture.dead_channels import (
    dead_channels,
    without_dead_channels,
)
from codeq_keras.architecture.kernels import find_kernels
from codeq_keras.architecture.narrowing import narrow_model


def outputs_of(model, x):
    return keras.tree.map_structure(
        keras.ops.convert_to_numpy, model(x, training=False)
    )


def assert_same_outputs(small, model, x):
    """Equal to float32: sums of fewer terms are blocked in another way.

    Each of up to 12 layers may lose some units in the last place of the sums
    of its magnitudes, which are larger than the outputs where terms cancel.
    """
    for ours, theirs in zip(
        keras.tree.flatten(outputs_of(small, x)),
        keras.tree.flatten(outputs_of(model, x)),
        strict=True,
    ):
        atol = 1e-5 * max(np.max(np.abs(theirs)), 1e-3)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


def assert_same_architecture(small, model):
    assert [k.path for k in find_kernels(small)] == [
        k.path for k in find_kernels(model)
    ]
    # Not of `variables`: Keras numbers the seeds of dropout anew.
    assert [v.path for v in small.weights] == [v.path for v in model.weights]
    assert [v.trainable for v in small.variables] == [
        v.trainable for v in model.variables
    ]
    assert small.output_names == model.output_names
    assert [x.name for x in small.layers] == [x.name for x in model.layers]


def assert_narrows(model, seed=0):
    channels = find_channels(model)
    alive = kill(model, channels, seed=seed)
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]

    small = without_dead_channels(model)

    sizes = {n: len(channels_left) for n, channels_left in alive.items()}
    left = dead_channels(model, channels)
    for number, size in sizes.items():
        if size < channels.sizes[number]:
            assert set(left[number]) <= {*alive[number], 0}, number
    assert_same_outputs(small, model, images(model))
    assert_same_architecture(small, model)
    assert dead_channels(small, find_channels(small)) == {}
    for variable, values in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, values)
    return small


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("head", ["flatten", "average"])
def test_model_without_the_dead_channels_has_the_same_outputs(kind, head):
    steps = (Step("convolution", width=8), Step(kind), Step(kind, other=1))
    model = build(RandomNetwork(steps, head))

    small = assert_narrows(model)

    assert small.count_params() < 0.8 * model.count_params()


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(random_networks())
def test_random_networks_have_the_same_outputs(described):
    assert_narrows(build(described))


def test_many_sums_in_a_row_stay_one_class():
    steps = itertools.repeat((Step("pointwise"), Step("add", other=1)), 6)
    model = build(RandomNetwork(tuple(itertools.chain(*steps)), "average"))

    assert_narrows(model)


@pytest.mark.slow
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(random_networks())
def test_many_random_networks_have_the_same_outputs(described):
    assert_narrows(build(described))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "MobileNetV2",
        "ResNet50V2",
        "DenseNet121",
        "MobileNetV3Small",
        "EfficientNetB0",
        "InceptionV3",
    ],
)
def test_applications_have_the_same_outputs(name):
    model = getattr(keras.applications, name)(
        input_shape=(96, 96, 3), weights=None, classifier_activation=None
    )
    disturb(model)

    small = assert_narrows(model)

    assert small.count_params() < 0.5 * model.count_params()
