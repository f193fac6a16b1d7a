"""The claims of `find_channels`, by counts and by meaning."""

import architectures.models as architectures
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from keras import layers, ops
from support.random_models import build, random_models, samples

from codeq_keras.architecture.channels import (
    ChannelMap,
    channel_positions,
    find_channels,
    kept_positions,
)
from codeq_keras.architecture.visits import all_layers

# Classes that are free, and all.
SMALL = {
    "resnet8": (6, 8),
    "ds_cnn": (5, 7),
    "fc_autoencoder": (9, 11),
    "mobilenet_v1_vww": (14, 16),
    "unet": (7, 9),
    "audio_conv1d": (4, 6),
    "transfer_head": (3, 5),
    "two_inputs_two_outputs": (2, 6),
    "nested_shared": (1, 3),
    "shared_layers": (0, 2),
    "embedding": (2, 3),
    "transformer": (2, 9),
    "lstm": (0, 3),
}
# In all of these, all but the classes of input and output are free.
LARGE = {
    "MobileNet": 16,
    "MobileNetV2": 27,
    "MobileNetV3Small": 29,
    "EfficientNetB0": 42,
    "EfficientNetV2B0": 46,
    "ResNet50": 39,
    "ResNet50V2": 39,
    "DenseNet121": 122,
    "Xception": 30,
    "InceptionV3": 96,
    "VGG16": 17,
    "InceptionResNetV2": 206,
    "NASNetMobile": 130,
}


def counts(found: ChannelMap):
    return len(found.free), len(found.classes)


def require_consistent(model: keras.Model, found: ChannelMap):
    """Layouts are as long as their axes, and kernels read what they note."""
    variables = {id(v): v for each in all_layers(model) for v in each.weights}
    for identity, axes in found.axes.items():
        for axis, layout in axes.items():
            length = sum(found.sizes[number] for number in layout)
            assert length == variables[identity].shape[axis]
    for identity, axis in found.reads.items():
        assert axis in found.axes[identity]
    for setting in found.settings:
        value = setting.layer.get_config()[setting.key]
        if setting.position is not None:
            value = value[setting.position]
        assert value == sum(found.sizes[number] for number in setting.layout)


def require_dead_where_unread(model, found, inputs, *, number=None):
    """The outputs are the same whatever writes a channel that nothing reads.

    Independent of the rules: the channel is dead once its slices of all
    kernels that read it are zero.
    """
    variables = {id(v): v for each in all_layers(model) for v in each.weights}
    values = np.random.default_rng(3)
    for chosen in found.free if number is None else [number]:
        kept = np.arange(1, found.sizes[chosen])  # The first one goes.
        before = [np.array(v) for v in variables.values()]
        written = []
        for identity, axes in found.axes.items():
            for axis, layout in axes.items():
                stays = kept_positions(layout, {chosen: kept}, found.sizes)
                variable = variables[identity]
                gone = np.setdiff1d(np.arange(variable.shape[axis]), stays)
                if found.reads.get(identity) == axis:
                    fill(variable, axis, gone, lambda shape: np.zeros(shape))
                elif len(gone):
                    written.append((variable, axis, gone))
        expected = outputs_of(model, inputs)
        for variable, axis, gone in written:
            fill(
                variable,
                axis,
                gone,
                lambda shape: values.uniform(0.5, 2.0, shape),
            )
        # A kernel that is read and written: dead rows stay dead.
        for identity, axis in found.reads.items():
            layout = found.axes[identity][axis]
            stays = kept_positions(layout, {chosen: kept}, found.sizes)
            variable = variables[identity]
            gone = np.setdiff1d(np.arange(variable.shape[axis]), stays)
            fill(variable, axis, gone, lambda shape: np.zeros(shape))
        actual = outputs_of(model, inputs)
        for variable, value in zip(variables.values(), before, strict=True):
            variable.assign(value)
        for a, b in zip(actual, expected, strict=True):
            # Zero times a finite number is exact; the sums are the same.
            np.testing.assert_array_equal(a, b, str(found.classes[chosen]))


def fill(variable, axis, positions, value):
    if len(positions):
        array = np.moveaxis(np.array(variable), axis, 0)
        array[positions] = value(array[positions].shape)
        variable.assign(np.moveaxis(array, 0, axis))


def outputs_of(model, inputs):
    for layer in all_layers(model):
        if getattr(layer, "stateful", False) and hasattr(layer, "reset_state"):
            layer.reset_state()
    outputs = keras.tree.flatten(model(inputs, training=False))
    return [np.array(output) for output in outputs]


def inputs_of(model):
    arrays = samples(model, 4)
    if isinstance(model, keras.Sequential):
        return arrays[0]
    return keras.tree.pack_sequence_as(model.input, arrays)


def cnn(*inner, shape=(6, 6, 3)):
    """A convolution of 4 filters, layers, and a classifier of 5 classes."""
    return keras.Sequential(
        [
            keras.Input(shape, name="image"),
            layers.Conv2D(4, 3, padding="same", name="first"),
            *inner,
            layers.Flatten(),
            layers.Dense(5, name="last"),
        ]
    )


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_have_these_classes(name):
    model = architectures.ROWS[name].build()
    found = find_channels(model)
    require_consistent(model, found)
    assert counts(found) == SMALL[name], found.classes


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_all_inner_channels_of_applications_are_free(name):
    model = architectures.ROWS[name].build()
    found = find_channels(model)
    require_consistent(model, found)
    assert counts(found) == (LARGE[name] - 2, LARGE[name]), found.classes
    inputs = inputs_of(model)
    for number in found.free[:: len(found.free) // 2]:
        require_dead_where_unread(model, found, inputs, number=number)


@pytest.mark.slow
def test_inner_channels_of_the_blocks_of_convnext_are_free():
    found = find_channels(architectures.ROWS["ConvNeXtTiny"].build())
    assert len(found.free) == 18
    reasons = {each.frozen for each in found.classes if each.frozen}
    assert any("LayerScale" in reason for reason in reasons)


@pytest.mark.parametrize(
    "name",
    ["resnet8", "ds_cnn", "unet", "audio_conv1d", "nested_shared", "embedding"],
)
def test_channels_that_nothing_reads_are_dead_in_networks(name):
    model = architectures.ROWS[name].build()
    found = find_channels(model)
    inputs = architectures.packed(
        architectures.samples(model, np.random.default_rng(0), 2)
    )
    require_dead_where_unread(model, found, inputs)


@settings(max_examples=10, deadline=None)
@given(described=random_models(policies=()))
def test_channels_that_nothing_reads_are_dead_in_random_models(described):
    model = build(described)
    found = find_channels(model)
    require_consistent(model, found)
    require_dead_where_unread(model, found, inputs_of(model))


def check(model, *, free, frozen=()):
    """Compares the free classes by size, and the reasons of the others."""
    found = find_channels(model)
    require_consistent(model, found)
    assert [found.sizes[number] for number in found.free] == free
    reasons = {each.frozen for each in found.classes}
    for text in frozen:
        assert any(text in (reason or "") for reason in reasons), reasons
    require_dead_where_unread(model, found, inputs_of(model))
    return found


FREE = {
    "BatchNormalization": lambda: [layers.BatchNormalization()],
    "PReLU": lambda: [layers.PReLU()],
    "PReLU, shared": lambda: [layers.PReLU(shared_axes=(1, 2, 3))],
    "depthwise": lambda: [layers.DepthwiseConv2D(3)],
    "grouped": lambda: [layers.Conv2D(4, 3, groups=4)],
    "activations": lambda: [layers.Activation("gelu"), layers.LeakyReLU()],
    "own layer as activation": lambda: [
        layers.DepthwiseConv2D(3, activation=layers.ReLU())
    ],
    "moved": lambda: [
        layers.ZeroPadding2D(),
        layers.Cropping2D(((1, 0), (0, 1))),
        layers.UpSampling2D(),
        layers.MaxPooling2D(),
        layers.Resizing(5, 5),
        layers.Permute((2, 1, 3)),
    ],
    "dropped": lambda: [
        layers.Dropout(0.5, noise_shape=(None, 1, 1, None)),
        layers.SpatialDropout2D(0.5),
        layers.GaussianNoise(0.1),
    ],
    "scaled": lambda: [layers.Rescaling(0.5, 0.1)],
    "reshaped": lambda: [layers.Reshape((36, 4)), layers.Reshape((9, -1))],
    "pooled": lambda: [
        layers.GlobalAveragePooling2D(),
        layers.Reshape((1, 1, 4)),
        layers.UpSampling2D(2),
    ],
    "repeated": lambda: [
        layers.GlobalMaxPooling2D(),
        layers.RepeatVector(3),
    ],
}


@pytest.mark.parametrize("name", FREE)
def test_channels_pass_through(name):
    check(cnn(*FREE[name]()), free=[4])


WRITING = {
    "transposed": (lambda: layers.Conv2DTranspose(5, 2), "filters"),
    "separable": (lambda: layers.SeparableConv2D(5, 2), "filters"),
    "dense": (lambda: layers.Dense(5), "units"),
    "einsum": (
        lambda: layers.EinsumDense("abcd,de->abce", (6, 6, 5), bias_axes="e"),
        "output_shape",
    ),
    "einsum of two axes": (
        lambda: layers.EinsumDense(
            "abcd,cdhe->abhe", (6, 3, 5), bias_axes="he"
        ),
        "output_shape",
    ),
}


@pytest.mark.parametrize("name", WRITING)
def test_kernels_read_one_class_and_write_another(name):
    make, key = WRITING[name]
    found = check(cnn(make()), free=[4, 5])
    assert {setting.key for setting in found.settings} >= {key}


FROZEN = {
    "groups": (lambda: [layers.Conv2D(4, 1, groups=2)], "groups of several"),
    "multiplier": (
        lambda: [layers.DepthwiseConv2D(1, depth_multiplier=2)],
        "depth_multiplier",
    ),
    "LayerNormalization": (
        lambda: [layers.LayerNormalization(name="norm")],
        "'norm' normalizes over channels",
    ),
    "softmax": (
        lambda: [layers.Activation("softmax", name="act")],
        "'act' has the activation 'softmax'",
    ),
    "softmax in a layer": (
        lambda: [layers.DepthwiseConv2D(1, activation="softmax")],
        "softmax",
    ),
    "BatchNormalization of rows": (
        lambda: [layers.BatchNormalization(axis=1)],
        "not the last",
    ),
    "activity": (
        lambda: [layers.ActivityRegularization(0.1)],
        "activity regularizer",
    ),
    "permuted": (lambda: [layers.Permute((3, 1, 2))], "another axis"),
    "heads": (lambda: [layers.Reshape((36, 2, 2))], "takes the channels apart"),
    "lambda": (lambda: [layers.Lambda(lambda x: x[..., ::-1])], "Lambda"),
    "subclass": (lambda: [OwnReLU()], "OwnReLU"),
    "vector": (
        lambda: [layers.Rescaling([1.0, 2.0, 3.0, 4.0])],
        "each channel",
    ),
}


class OwnReLU(layers.ReLU):
    """May compute anything: here, it mixes channels."""

    def call(self, inputs):
        return inputs + ops.sum(inputs, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", FROZEN)
def test_channels_that_mix_are_frozen_with_a_reason(name):
    make, reason = FROZEN[name]
    check(cnn(*make()), free=[], frozen=[reason])


def test_inputs_and_outputs_are_frozen():
    found = find_channels(cnn())
    assert [each.frozen for each in found.classes] == [
        "the input 'image' of the model",
        None,
        "the output of the model",
    ]
    assert found.classes[1].members == ("first/kernel",)


def test_flatten_repeats_a_layout():
    model = cnn(layers.MaxPooling2D(3))
    found = find_channels(model)
    kernel = model.get_layer("last").kernel
    assert found.axes[id(kernel)][0] == (1, 1, 1, 1)


def functional(body, *, channels=3):
    inputs = keras.Input((6, 6, channels))
    return keras.Model(inputs, body(inputs))


def conv(filters, name=None):
    return layers.Conv2D(filters, 3, padding="same", name=name)


def head(x):
    return layers.Dense(2)(layers.GlobalAveragePooling2D()(x))


def _squeeze_excite(x):
    x = conv(8)(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(3, 1, activation="relu")(gate)
    gate = layers.Conv2D(8, 1, activation="hard_sigmoid")(gate)
    return head(layers.Multiply()([x, gate]))


def _reshaped_gate(x):
    x = conv(8)(x)
    gate = layers.Dense(8)(layers.GlobalAveragePooling2D()(x))
    return head(x * layers.Reshape((1, 1, 8))(gate))


def _unequal_cuts(x):
    first = layers.Concatenate()([conv(2)(x), conv(5)(x)])
    second = layers.Concatenate()([conv(4)(x), conv(3)(x)])
    return head(first + second)


def _operations(x):
    x = ops.relu6(conv(4)(x)) * 2.0 + 1.0
    x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = ops.flip(ops.transpose(x, (0, 2, 1, 3)), axis=1)[:, 1:]
    x = ops.hard_silu(ops.mean(x, axis=(1, 2), keepdims=True))
    return layers.Dense(2)(ops.squeeze(x, axis=(1, 2))[:, None, :])


def _rows(x):
    x = layers.Concatenate(axis=1)([conv(4)(x), conv(4)(x)])
    return head(x)


def _shared(x):
    shared = conv(6, "shared")
    return head(shared(conv(4, "a")(x)) + shared(conv(4, "b")(x)))


def _nested(x):
    inside = keras.Input((6, 6, 4))
    nested = keras.Model(inside, conv(5)(layers.ReLU()(inside)))
    return head(nested(conv(4)(x)))


JOINED = {
    "squeeze-excite": (_squeeze_excite, [8, 3]),
    "reshaped gate": (_reshaped_gate, [8]),
    "unequal cuts": (_unequal_cuts, [2, 2, 3]),
    "operations": (_operations, [4]),
    "rows": (_rows, [4]),
    "shared": (_shared, [4, 6]),
    "nested": (_nested, [4, 5]),
}


@pytest.mark.parametrize("name", JOINED)
def test_joined_channels_are_one_class(name):
    body, free = JOINED[name]
    check(functional(body), free=free)


def _spread(x):
    return head(conv(4)(x) * conv(1, "map")(x))


def _constant(x):
    return head(conv(4)(x) * np.arange(4, dtype="float32"))


def _part(x):
    return head(conv(4)(x)[..., 1:])


def _channels_padded(x):
    return head(ops.pad(conv(4)(x), ((0, 0), (0, 0), (0, 0), (1, 1))))


def _reduced(x):
    return layers.Dense(2)(ops.max(conv(4)(x), axis=(2, 3)))


def _one_result_is_used(x):
    inside = keras.Input((6, 6, 3))
    nested = keras.Model(inside, [conv(4, "used")(inside), conv(5)(inside)])
    return head(nested(x)[0])


KEPT = {
    "one channel for all": (_spread, [4], "spreads one channel over all"),
    "constant": (_constant, [], "a constant for each channel"),
    "part": (_part, [], "picks channels"),
    "padded": (_channels_padded, [], "pads the channels"),
    "reduced": (_reduced, [], "works over the axis of channels"),
    "unused": (_one_result_is_used, [4], "no kernel reads it"),
}


@pytest.mark.parametrize("name", KEPT)
def test_operations_on_channels_freeze_them(name):
    body, free, reason = KEPT[name]
    check(functional(body), free=free, frozen=[reason])


def test_a_layer_that_is_also_in_an_unknown_one_is_frozen():
    dense = layers.Dense(4, name="dense")
    inputs = keras.Input((5, 3))
    x = layers.TimeDistributed(dense)(inputs) * 0.0
    outputs = layers.Dense(2)(layers.Flatten()(dense(inputs)))
    model = keras.Model(inputs, [outputs, x])
    found = find_channels(model)
    [written] = found.axes[id(dense.kernel)][1]
    assert "TimeDistributed" in found.classes[written].frozen


def test_channels_first_are_frozen():
    model = keras.Sequential(
        [
            keras.Input((3, 6, 6)),
            layers.Conv2D(4, 3, data_format="channels_first"),
            layers.Conv2D(4, 3, data_format="channels_first"),
        ]
    )
    found = find_channels(model)
    assert not found.free
    assert any("channels first" in each.frozen for each in found.classes)


class OwnModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4)

    def call(self, inputs):
        return self.dense(inputs)


def test_a_subclassed_model_says_what_to_do():
    model = OwnModel()
    model(np.zeros((1, 3)))
    [each] = find_channels(model).classes
    assert "make it functional: `keras.Model(inputs, outputs)`" in each.frozen


class OwnFunctional(keras.Model):
    def call(self, inputs):
        return ops.flip(super().call(inputs), axis=-1)


def test_a_functional_model_with_a_call_of_its_own_is_frozen():
    inputs = keras.Input((3,))
    hidden = layers.Dense(4)(inputs)
    model = OwnFunctional(inputs, layers.Dense(2)(hidden))
    assert not find_channels(model).free


def test_positions_name_the_class_and_its_channel():
    classes, channels = channel_positions((2, 0, 2), {0: 3, 2: 2})
    assert classes.tolist() == [2, 2, 0, 0, 0, 2, 2]
    assert channels.tolist() == [0, 1, 0, 1, 2, 0, 1]


def test_kept_positions_repeat_with_the_layout():
    kept = kept_positions((1, 0, 1), {1: np.array([0, 2])}, (2, 3))
    assert kept.tolist() == [0, 2, 3, 4, 5, 7]
