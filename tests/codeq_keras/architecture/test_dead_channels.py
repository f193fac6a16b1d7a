"""Channels that no output depends on, found and nothing else."""

import keras
import numpy as np
import pytest
from keras import layers
from support.custom_model import Affine
from support.random_networks import RandomNetwork, Step, build, disturb, images

from codeq_keras.architecture.channels import find_channels
from codeq_keras.architecture.dead_channels import (
    dead_channels,
    without_dead_channels,
)


def network(*middle, shape=(6, 6, 3)):
    """A stem of 4 channels, layers that keep them, and a reader."""
    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(4, 3, padding="same", name="stem"),
            *middle,
            layers.Conv2D(5, 3, name="reader"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, name="head"),
        ]
    )
    disturb(model)
    return model


def zero(variable, axis, channels):
    values = keras.ops.convert_to_numpy(variable).swapaxes(axis, 0).copy()
    values[channels] = 0
    variable.assign(values.swapaxes(axis, 0))


SHIFTS = ("bias", "gamma", "beta")


def silence(layer, channels):
    """Makes a layer write zeros into some channels."""
    for variable in layer.weights:
        if variable.name in ("kernel", "pointwise_kernel", *SHIFTS):
            zero(variable, len(variable.shape) - 1, channels)


def assert_removed(model, number, tolerance=1e-6):
    """The stem loses so many channels, and the outputs stay.

    The terms that are left out are zeros: only the order of sums differs.
    """
    small = without_dead_channels(model)
    x = images(model)

    assert small.get_layer("stem").filters == 4 - number
    np.testing.assert_allclose(
        small.predict(x, verbose=0),
        model.predict(x, verbose=0),
        atol=tolerance,
    )


def test_copy_of_a_model_without_dead_channels_is_equal():
    model = network()

    copy = without_dead_channels(model)

    assert copy is not model
    for ours, theirs in zip(copy.variables, model.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_channel_that_one_reader_needs_stays():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, name="stem")(inputs)
    first, second = layers.Conv2D(2, 3), layers.Conv2D(2, 1)
    outputs = [layers.GlobalMaxPooling2D()(each(x)) for each in (first, second)]
    model = keras.Model(inputs, outputs)
    zero(first.kernel, 2, [0, 1])
    zero(second.kernel, 2, [1, 2])
    channels = find_channels(model)

    [kept] = dead_channels(model, channels).values()

    np.testing.assert_array_equal(kept, [0, 2, 3])


def test_what_only_dead_channels_read_dies_too():
    model = network(layers.Conv2D(4, 1, name="middle"))
    zero(model.get_layer("head").kernel, 0, [0, 1, 2, 3])
    # The only output of the reader that counts reads one channel.
    kernel = np.zeros((3, 3, 4, 5), "float32")
    kernel[..., :, :4] = 1
    kernel[..., 2, 4] = 1
    model.get_layer("reader").kernel.assign(kernel)
    # And that channel reads one of the stem's.
    kernel = np.ones((1, 1, 4, 4), "float32")
    kernel[..., [0, 1, 3], 2] = 0
    model.get_layer("middle").kernel.assign(kernel)

    assert_removed(model, 3)
    small = without_dead_channels(model)

    assert small.get_layer("middle").filters == 1
    assert small.get_layer("reader").filters == 1


def test_class_that_is_dead_as_a_whole_keeps_one_channel():
    model = network()
    zero(model.get_layer("reader").kernel, 2, [0, 1, 2, 3])

    assert_removed(model, 3)


@pytest.mark.parametrize(
    "middle",
    [
        (),
        (layers.ReLU,),
        (lambda: layers.ReLU(6.0, negative_slope=0.1),),
        (lambda: layers.SpatialDropout2D(0.5), lambda: layers.Dropout(0.5)),
        (layers.MaxPooling2D, layers.ZeroPadding2D, layers.UpSampling2D),
        (lambda: layers.Activation("hard_silu"), layers.PReLU),
        (lambda: layers.AveragePooling2D(2), lambda: layers.Activation("tanh")),
        (lambda: layers.Conv2D(4, 3, groups=4, use_bias=False),),
        (lambda: layers.DepthwiseConv2D(3, use_bias=False),),
        (lambda: layers.Reshape((36, 4)), lambda: layers.Reshape((6, 6, 4))),
        (lambda: layers.BatchNormalization(center=False),),
    ],
)
def test_zeros_pass(middle):
    model = network(*(make() for make in middle))
    silence(model.get_layer("stem"), [1, 3])
    for norm in model.layers:
        if isinstance(norm, layers.BatchNormalization):
            norm.moving_mean.assign(np.zeros(4))

    assert_removed(model, 2)


@pytest.mark.parametrize(
    "middle",
    [
        lambda: layers.Activation("sigmoid"),
        lambda: layers.Activation("softplus"),
        lambda: layers.ReLU(threshold=0.5, negative_slope=0.1),
        lambda: layers.DepthwiseConv2D(3),
        lambda: layers.BatchNormalization(),
        lambda: layers.BatchNormalization(center=False),
        lambda: layers.Conv2D(4, 3, groups=4, activation="sigmoid"),
    ],
)
def test_zeros_that_become_something_else_stay(middle):
    model = network(middle())
    silence(model.get_layer("stem"), [1, 3])

    assert dead_channels(model, find_channels(model)) == {}


def test_zeros_of_a_norm_without_gain_and_shift():
    model = network(layers.BatchNormalization(name="norm"), layers.ReLU())
    silence(model.get_layer("norm"), [0, 2])

    assert_removed(model, 2)


def test_gain_of_zero_with_a_shift_stays():
    model = network(layers.BatchNormalization(name="norm"), layers.ReLU())
    zero(model.get_layer("norm").gamma, 0, [0, 2])

    assert dead_channels(model, find_channels(model)) == {}


def _residual(join):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, name="stem")(inputs)
    y = join(x, layers.Conv2D(4, 1, name="branch")(x))
    outputs = layers.Dense(2)(layers.GlobalMaxPooling2D()(y))
    model = keras.Model(inputs, outputs)
    disturb(model)
    silence(model.get_layer("branch"), [0, 1])
    return model


def test_sum_is_zero_only_if_all_parts_are():
    model = _residual(lambda x, y: layers.Add()([x, y]))
    assert dead_channels(model, find_channels(model)) == {}

    silence(model.get_layer("stem"), [1, 2])
    # Nothing writes channel 1, but the branch reads channels 2 and 3.
    assert_removed(model, 1)


@pytest.mark.parametrize(
    "join", [lambda x, y: layers.Multiply()([x, y]), lambda x, y: x * y]
)
def test_product_is_zero_if_one_part_is(join):
    model = _residual(join)
    # The branch reads all channels of the stem, which are the product's.
    zero(model.get_layer("branch").kernel, 2, [0, 1])

    assert_removed(model, 2)


def test_shared_layer_reads_zeros_only_if_all_calls_do():
    inputs = keras.Input((6, 6, 3))
    first = layers.Conv2D(4, 3, name="stem")
    second = layers.Conv2D(4, 3, name="other")
    shared = layers.Conv2D(5, 3)
    y = layers.Add()([shared(first(inputs)), shared(second(inputs))])
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalMaxPooling2D()(y)))
    disturb(model)
    silence(first, [0, 1])
    assert dead_channels(model, find_channels(model)) == {}

    silence(second, [1, 2])
    assert_removed(model, 1)


@pytest.mark.parametrize("seed", range(4))
def test_zeros_of_random_writers_leave_outputs(seed):
    steps = [
        Step(kind, other=2, width=6)
        for kind in (
            "convolution norm spatial excite add shared norm prelu "
            "concatenate nested separable"
        ).split()
    ]
    rng = np.random.default_rng(seed)
    rng.shuffle(steps)
    model = build(RandomNetwork((*steps, Step("pointwise")), "flatten"))
    # Gains of norms make channels zero, whatever is before them.
    for layer in model._flatten_layers():
        if layer.weights and type(layer) in _WRITERS:
            size = layer.weights[-1].shape[-1]
            silence(layer, rng.permutation(size)[: size // 2])

    small = without_dead_channels(model)

    x = images(model)
    expected = model.predict(x, verbose=0)
    assert small.count_params() < model.count_params()
    np.testing.assert_allclose(
        small.predict(x, verbose=0),
        expected,
        # Sums of fewer terms in float32, over some ten layers.
        atol=1e-5 * max(np.max(np.abs(expected)), 1e-3),
    )


_WRITERS = {layers.Conv2D, layers.BatchNormalization, layers.SeparableConv2D}


def test_layer_of_a_user_reads_everything():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="stem"), Affine(3)]
    )
    silence(model.get_layer("stem"), [0, 1])

    assert dead_channels(model, find_channels(model)) == {}


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def test_subclassed_model_is_refused_with_the_remedy():
    model = Subclassed()
    model(np.zeros((1, 4)))

    with pytest.raises(ValueError, match="Make it functional"):
        without_dead_channels(model)


def test_path_is_refused():
    with pytest.raises(ValueError, match=r"the path 'model\.keras'"):
        without_dead_channels("model.keras")
