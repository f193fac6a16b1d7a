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
    assert [v.name for v in small.weights] == [v.name for v in model.weights]
    assert [v.trainable for v in small.variables] == [
        v.trainable for v in model.variables
    ]
    if not isinstance(model, keras.Sequential):
        assert small.output_names == model.output_names
        keras.tree.assert_same_structure(small.output, model.output)
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


def narrowed(model):
    """Every free class without half of its channels."""
    channels = find_channels(model)
    kept = {n: np.arange(0, channels.sizes[n], 2) for n in channels.free}
    return narrow_model(model, channels, kept)


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("head", ["flatten", "average"])
def test_model_without_the_dead_channels_has_the_same_outputs(kind, head):
    steps = (Step("convolution", width=8), Step(kind), Step(kind, other=1))
    model = build(RandomNetwork(steps, head))

    small = assert_narrows(model)

    assert small.count_params() < 0.8 * model.count_params()


@settings(
    max_examples=8,
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
    max_examples=100,
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


def test_saved_narrow_model_loads_with_the_same_outputs(tmp_path):
    model = build(RandomNetwork((Step("nested"), Step("excite"), Step("add"))))
    kill(model, find_channels(model))
    small = without_dead_channels(model)
    x = images(model)

    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")

    np.testing.assert_array_equal(outputs_of(loaded, x), outputs_of(small, x))
    assert loaded.count_params() == small.count_params()


def test_narrow_model_is_trained_further():
    model = build(RandomNetwork((Step("sequential"), Step("shared"))))
    small = narrowed(model)
    small.compile(keras.optimizers.Adam(0.01), "mse")
    x = images(model)

    before = small.evaluate(x, np.ones((4, 3)), verbose=0)
    small.fit(x, np.ones((4, 3)), epochs=30, verbose=0)

    assert small.evaluate(x, np.ones((4, 3)), verbose=0) < 0.9 * before


def _built_without_input():
    model = keras.Sequential([layers.Dense(8), layers.Dense(3)])
    model.build((None, 4))
    return model


def _two_outputs():
    inputs = {name: keras.Input((4,), name=name) for name in ("b", "a")}
    x = layers.Dense(8)(layers.Concatenate()([inputs["b"], inputs["a"]]))
    outputs = {"y": layers.Dense(2)(x), "z": [layers.Dense(3)(x)]}
    return keras.Model(inputs, outputs)


def _mixed_precision():
    policy = keras.DTypePolicy("mixed_bfloat16")
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, dtype=policy),
            layers.BatchNormalization(dtype=policy),
            layers.Conv2D(4, 3, dtype="float16"),
            layers.Flatten(),
            layers.Dense(2, dtype="float32"),
        ]
    )


@keras.saving.register_keras_serializable(package="tests")
class Twice(layers.Layer):
    """Creates what it needs when it is built, and has no config for it."""

    def build(self, input_shape):
        self.dense = layers.Dense(input_shape[-1], trainable=False)
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(self.dense(inputs))


class Unregistered(layers.Layer):
    def call(self, inputs):
        return 2 * inputs


def _layers_of_users():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8),
            layers.Dense(6, name="free"),
            layers.Dense(4),
            Twice(),
            Unregistered(),
            layers.Dense(2, trainable=False),
        ]
    )


def _frozen_in_a_frozen_model():
    inputs = keras.Input((4, 6))
    x = layers.Dense(8)(inputs)
    inside = keras.Input((4, 8))
    y = layers.Dense(8)(inside)
    y = layers.MultiHeadAttention(2, 4)(y, y)
    inner = keras.Model(inside, layers.Dense(5)(y))
    inner.layers[2].trainable = False
    outputs = layers.Dense(2)(layers.Dense(4)(inner(x)))
    return keras.Model(inputs, outputs)


MODELS = (
    _built_without_input,
    _two_outputs,
    _mixed_precision,
    _layers_of_users,
    _frozen_in_a_frozen_model,
)


@pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__[1:])
def test_names_types_and_what_is_frozen_are_kept(make):
    model = make()

    small = narrowed(model)

    assert small.count_params() < model.count_params()
    assert_same_architecture(small, model)
    assert [v.dtype for v in small.variables] == [
        v.dtype for v in model.variables
    ]
    assert [x.dtype_policy.name for x in small.layers] == [
        x.dtype_policy.name for x in model.layers
    ]
    assert small.input_shape == model.input_shape
    assert small.output_shape == model.output_shape


def test_nested_model_called_on_channels_that_shrink():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3)(inputs)
    pool = keras.Sequential(
        [keras.Input((6, 6, 6)), layers.MaxPooling2D()], name="pool"
    )
    flat = keras.Sequential([layers.ReLU(), layers.Flatten()], name="flat")
    model = keras.Model(inputs, layers.Dense(2)(flat(pool(x))))

    small = narrowed(model)

    assert small.get_layer("pool").input_shape == (None, 6, 6, 3)
    assert small.get_layer("flat").input_shape == (None, 3, 3, 3)
    assert small.get_layer("flat").output_shape == (None, 27)


def test_nested_model_of_open_channels_keeps_them():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3)(inputs)
    inner = keras.Input((None, None, None))
    pool = keras.Model(inner, layers.MaxPooling2D()(inner), name="pool")
    x = layers.GlobalAveragePooling2D()(pool(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    channels = find_channels(model)

    [reason] = [c.frozen for c in channels.classes if c.size == 6]
    assert "pool" in reason
    assert narrowed(model).count_params() == model.count_params()


def test_reshape_of_an_input_that_no_kernel_reads():
    inputs = [keras.Input((4, 3)), keras.Input((4,))]
    x = layers.Dense(2)(layers.Dense(8)(inputs[1]))
    model = keras.Model(inputs, [layers.Reshape((2, 6))(inputs[0]), x])

    small = narrowed(model)

    assert small.output_shape == [(None, 2, 6), (None, 2)]
    assert small.count_params() < model.count_params()


def _chain():
    return keras.Sequential(
        [
            keras.Input((4,), name="x"),
            layers.Dense(8, name="hidden"),
            layers.Dense(3, name="head"),
        ]
    )


@pytest.mark.parametrize(
    ("channels_left", "message"),
    [
        ([], "at least one channel"),
        ([0, 8], "sorted integers from 0 to 7"),
        ([-1, 3], "sorted integers from 0 to 7"),
        ([3, 1], "sorted integers"),
        ([1, 1], "each once"),
        ([0.0, 1.0], "sorted integers"),
        ([[0, 1]], "sorted integers"),
        ([True, False], "sorted integers"),
    ],
)
def test_channels_that_cannot_be_kept_are_refused(channels_left, message):
    model = _chain()
    channels = find_channels(model)
    [free] = channels.free

    with pytest.raises(ValueError, match=rf"{message}.*Received: kept={{"):
        narrow_model(model, channels, {free: np.array(channels_left)})


def test_frozen_class_is_refused_with_its_reason():
    model = _chain()
    channels = find_channels(model)

    for number, reason in ((0, "the input 'x'"), (2, "the output")):
        assert channels.classes[number].frozen is not None
        with pytest.raises(ValueError, match=f"cannot shrink: {reason}"):
            narrow_model(model, channels, {number: np.array([0])})


def test_frozen_class_that_keeps_all_is_accepted():
    model = _chain()
    channels = find_channels(model)

    small = narrow_model(model, channels, {0: np.arange(4), 1: np.arange(2)})

    assert small.get_layer("hidden").kernel.shape == (4, 2)


def test_number_of_no_class_is_refused():
    model = _chain()

    with pytest.raises(ValueError, match="classes from 0 to 2"):
        narrow_model(model, find_channels(model), {3: np.array([0])})


def test_channels_of_another_model_are_refused():
    with pytest.raises(ValueError, match="channels of the model that is"):
        narrow_model(_chain(), find_channels(_chain()), {1: np.array([0])})
