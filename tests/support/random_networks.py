"""Random networks whose channels can be removed, described so that they shrink.

`random_networks()` draws a `RandomNetwork`, `build` makes the Keras model, and
`kill` zeroes what reads some of its channels.
"""

import dataclasses

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers

from codeq_keras.architecture.channels import ChannelMap, channel_positions

SHAPE = (4, 4, 3)
WIDTHS = (2, 3, 5, 8)


@dataclasses.dataclass(frozen=True)
class Step:
    """One layer or block.

    Attributes:
        kind: Key of `BLOCKS`.
        source: How many tensors before the last one the one is that it reads.
        other: The same of the second one, of joins and shared layers.
        width: The number of channels that it writes, if it decides on it.
        is_frozen: Whether its layers are not trained.
    """

    kind: str
    source: int = 0
    other: int = 0
    width: int = 5
    is_frozen: bool = False


@dataclasses.dataclass(frozen=True)
class RandomNetwork:
    """Steps on images of one size, and what follows them."""

    steps: tuple[Step, ...]
    head: str = "flatten"


def _convolution(x, other, width):
    return layers.Conv2D(width, 3, padding="same", activation="relu")(x)


def _pointwise(x, other, width):
    return layers.Conv2D(width, 1, use_bias=False)(x)


def _dense(x, other, width):
    return layers.Dense(width, activation="tanh")(x)


def _einsum(x, other, width):
    layer = layers.EinsumDense("abcd,de->abce", (4, 4, width), bias_axes="e")
    return layer(x)


def _transposed(x, other, width):
    return layers.Conv2DTranspose(width, 3, padding="same")(x)


def _separable(x, other, width):
    return layers.SeparableConv2D(width, 3, padding="same")(x)


def _depthwise(x, other, width):
    return layers.DepthwiseConv2D(3, padding="same")(x)


def _grouped(x, other, width):
    size = x.shape[-1]
    return layers.Conv2D(size, 3, padding="same", groups=size)(x)


def _norm(x, other, width):
    return layers.BatchNormalization()(x)


def _prelu(x, other, width):
    return layers.PReLU(shared_axes=(1, 2))(x)


def _spatial(x, other, width):
    x = layers.ZeroPadding2D(1)(layers.Dropout(0.5)(x))
    x = layers.AveragePooling2D(3, strides=1)(layers.Activation("silu")(x))
    return x


def _like(x, other):
    """The other with as many channels as the one."""
    if other.shape[-1] == x.shape[-1]:
        return other
    return layers.Conv2D(x.shape[-1], 1)(other)


def _add(x, other, width):
    return layers.Add()([x, _like(x, other)])


def _multiply(x, other, width):
    return x * _like(x, other)


def _concatenate(x, other, width):
    return layers.Concatenate()([x, other])


def _excite(x, other, width):
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Dense(width, activation="relu")(gate)
    gate = layers.Dense(x.shape[-1], activation="sigmoid")(gate)
    return layers.Multiply()([x, layers.Reshape((1, 1, x.shape[-1]))(gate)])


def _shared(x, other, width):
    layer = layers.Conv2D(width, 3, padding="same")
    return layers.Add()([layer(x), layer(_like(x, other))])


def _nested(x, other, width):
    inside = keras.Input(x.shape[1:])
    y = layers.BatchNormalization()(inside)
    y = layers.Conv2D(width, 3, padding="same", activation="relu")(y)
    inner = keras.Model(inside, [y, layers.MaxPooling2D(3, 1, "same")(inside)])
    first, pooled = inner(x)
    return layers.Concatenate()([first, *inner(_like(x, other)), pooled])


def _sequential(x, other, width):
    inner = keras.Sequential(
        [
            layers.ReLU(),
            layers.DepthwiseConv2D(3, padding="same"),
            keras.Sequential([keras.Input(x.shape[1:]), layers.Dense(width)]),
        ]
    )
    return inner(x)


BLOCKS = {
    function.__name__[1:]: function
    for function in (
        _convolution, _pointwise, _dense, _einsum, _transposed, _separable,
        _depthwise, _grouped, _norm, _prelu, _spatial, _add, _multiply,
        _concatenate, _excite, _shared, _nested, _sequential,
    )
}  # fmt: skip

HEADS = {
    "flatten": lambda x: layers.Flatten()(x),
    "average": lambda x: layers.GlobalAveragePooling2D()(x),
    "reshape": lambda x: layers.GlobalMaxPooling1D()(
        layers.Reshape((16, x.shape[-1]))(x)
    ),
}


@st.composite
def random_networks(draw):
    """Draws networks of 3 to 12 layers, the head's two included."""
    steps = st.builds(
        Step,
        kind=st.sampled_from(list(BLOCKS)),
        source=st.sampled_from([0, 0, 0, 1, 2]),
        other=st.integers(0, 3),
        width=st.sampled_from(WIDTHS),
        is_frozen=st.sampled_from([False, False, True]),
    )
    return RandomNetwork(
        tuple(draw(st.lists(steps, min_size=1, max_size=10))),
        draw(st.sampled_from(list(HEADS))),
    )


def build(described: RandomNetwork) -> keras.Model:
    """Returns the Keras model, with biases and statistics that matter."""
    keras.backend.clear_session()
    inputs = keras.Input(SHAPE, name="image")
    # The channels of the input must stay: with a stem, most are free.
    tensors = [layers.Conv2D(6, 3, padding="same", name="stem")(inputs)]
    for step in described.steps:
        x, other = (
            tensors[max(len(tensors) - 1 - back, 0)]
            for back in (step.source, step.other)
        )
        tensors.append(BLOCKS[step.kind](x, other, step.width))
        if step.is_frozen:
            origin = tensors[-1]._keras_history.operation
            origin.trainable = False
    x = layers.Dense(4, activation="relu")(HEADS[described.head](tensors[-1]))
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x), name="net")
    disturb(model)
    return model


def disturb(model: keras.Model) -> None:
    """Gives a model biases, gains and statistics that are not the initial."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name in ("bias", "beta", "moving_mean", "alpha"):
            variable.assign(rng.normal(0, 0.1, variable.shape))
        elif variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))


def kill(
    model: keras.Model, channels: ChannelMap, part: float = 0.5, seed: int = 0
) -> dict[int, np.ndarray]:
    """Zeroes what reads a random part of each free class; returns the rest."""
    rng = np.random.default_rng(seed)
    alive = {}
    for number in channels.free:
        size = channels.sizes[number]
        # Classes of one size that differ show where two are mixed up.
        count = max(rng.binomial(size, 1 - part), 1)
        alive[number] = np.sort(rng.permutation(size)[:count])
    for variable in model.variables:
        axis = channels.reads.get(id(variable))
        if axis is not None:
            layout = channels.axes[id(variable)][axis]
            pairs = zip(
                *channel_positions(layout, channels.sizes), strict=True
            )
            stays = [n not in alive or c in alive[n] for n, c in pairs]
            values = keras.ops.convert_to_numpy(variable).swapaxes(axis, -1)
            variable.assign((values * np.array(stays)).swapaxes(axis, -1))
    return alive


def images(model: keras.Model, number: int = 4) -> np.ndarray:
    """Returns random images for a model of one input."""
    rng = np.random.default_rng(0)
    shape = (number, *model.inputs[0].shape[1:])
    return rng.normal(size=shape).astype("float32")
