"""The kinds of layers that random models are made of."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import layers
from support.custom_model import Affine, ScaledDense, TokenAndPosition

VOCABULARY = 12


@keras.saving.register_keras_serializable(package="random_models")
class Matrix(layers.Layer):
    """A Dense whose weight is called `w`."""

    def build(self, input_shape):
        self.w = self.add_weight((input_shape[-1], 4), name="w")

    def call(self, inputs):
        return inputs @ self.w


@keras.saving.register_keras_serializable(package="random_models")
class Counting(layers.Layer):
    """A Dense that scales by the mean of what it saw, a buffer of rank 2."""

    def build(self, input_shape):
        self.kernel = self.add_weight((input_shape[-1], 4), name="kernel")
        self.mean = self.add_weight(
            (1, 4), initializer="ones", trainable=False, name="mean"
        )

    def call(self, inputs, training=None):
        outputs = inputs @ self.kernel
        if training:
            axes = tuple(range(len(outputs.shape) - 1))
            new = keras.ops.mean(outputs, axis=axes)
            self.mean.assign(0.9 * self.mean + 0.1 * new)
        return outputs * keras.ops.cast(self.mean[0], outputs.dtype)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of step: what it reads, what it gives, and its layer.

    Attributes:
        takes: The data that it reads: "vector", "sequence" or "image", all of
            them for "any", or "tokens".
        gives: The data that it gives; None for what it reads.
        make: Makes the layer, or a function of `keras.ops`, of a name.
        call: Calls the layer on a tensor.
        merges: Whether it reads two tensors.
    """

    takes: str
    gives: str | None
    make: Callable[..., Any]
    call: Callable[..., Any] = lambda layer, x: layer(x)
    merges: bool = False

    def reads(self, data: str) -> bool:
        """Whether it can be called on data."""
        return self.takes in (data, "any") and (
            data != "tokens" or self.takes == "tokens"
        )


def _layer(takes, gives, cls, *args, **kwargs):
    call = kwargs.pop("call", Kind.call)
    return Kind(takes, gives, lambda **kw: cls(*args, **kwargs, **kw), call)


def _in_float32(takes, gives, cls, *args, **kwargs):
    """A layer that adds a loss: Keras adds no losses of different types."""

    def make(name, dtype=None):
        return cls(*args, name=name, dtype="float32", **kwargs)

    return Kind(takes, gives, make)


def _function(takes, gives, function):
    return Kind(takes, gives, lambda **_: function)


def _wrapped(takes, gives, cls, inner, *args, **kwargs):
    """A layer around a layer, which is made anew each time."""

    def make(name, dtype=None):
        return cls(inner(dtype=dtype), *args, name=name, dtype=dtype, **kwargs)

    return Kind(takes, gives, make)


def _hidden_and_state(layer, x):
    _, hidden, cell = layer(x)
    return layers.Add()([hidden, cell])


def _merge(cls):
    return Kind("any", None, lambda **kw: cls(**kw), merges=True)


def _small_dense(dtype):
    return layers.Dense(3, activation="tanh", dtype=dtype)


# The simplest first: failing models shrink to the front of the list.
KINDS: dict[str, Kind] = {
    "dense": _layer("any", None, layers.Dense, 4),
    "relu": _layer("any", None, layers.ReLU),
    "relu_dense": _layer("any", None, layers.Dense, 5, activation="relu"),
    "batch_norm": _layer("any", None, layers.BatchNormalization),
    "batch_norm_at_rest": _layer(
        "any",
        None,
        layers.BatchNormalization,
        call=lambda layer, x: layer(x, training=False),
    ),
    "dropout": _layer("any", None, layers.Dropout, 0.3),
    "noise": _layer("any", None, layers.GaussianNoise, 0.1),
    "layer_norm": _layer("any", None, layers.LayerNormalization),
    "prelu": _layer("any", None, layers.PReLU),
    "scaled": _layer("any", None, layers.Rescaling, 0.5, offset=0.1),
    "affine": _layer("any", None, Affine, 4),
    "scaled_dense": _in_float32("vector", None, ScaledDense, 4),
    "matrix": _layer("any", None, Matrix),
    "counting": _layer("any", None, Counting),
    "constrained": _in_float32(
        "any",
        None,
        layers.Dense,
        4,
        kernel_regularizer="l2",
        activity_regularizer="l2",
        kernel_constraint="max_norm",
    ),
    "spectral": _wrapped(
        "vector", None, layers.SpectralNormalization, _small_dense
    ),
    "ops_tanh": _function("any", None, keras.ops.tanh),
    "ops_mean": _function(
        "sequence", "vector", lambda x: keras.ops.mean(x, axis=1)
    ),
    "ops_scale": _function("any", None, lambda x: 2.0 * x + 1.0),
    "repeat": _layer("vector", "sequence", layers.RepeatVector, 3),
    "conv1d": _layer("sequence", None, layers.Conv1D, 4, 3, padding="same"),
    "causal": _layer("sequence", None, layers.Conv1D, 4, 2, padding="causal"),
    "separable1d": _layer(
        "sequence", None, layers.SeparableConv1D, 4, 3, padding="same"
    ),
    "einsum": _layer(
        "sequence", None, layers.EinsumDense, "...x,xy->...y", 4, bias_axes="y"
    ),
    "attention": _layer(
        "sequence",
        None,
        layers.MultiHeadAttention,
        2,
        2,
        call=lambda layer, x: layer(x, x),
    ),
    "time_distributed": _wrapped(
        "sequence", None, layers.TimeDistributed, _small_dense
    ),
    "rnn": _layer("sequence", "vector", layers.SimpleRNN, 4),
    "gru": _layer("sequence", None, layers.GRU, 4, return_sequences=True),
    "lstm": _layer("sequence", "vector", layers.LSTM, 4, unroll=True),
    "lstm_state": _layer(
        "sequence",
        "vector",
        layers.LSTM,
        4,
        return_state=True,
        call=_hidden_and_state,
    ),
    "dropped_gru": _layer(
        "sequence", "vector", layers.GRU, 4, dropout=0.2, recurrent_dropout=0.2
    ),
    "bidirectional": _wrapped(
        "sequence",
        "vector",
        layers.Bidirectional,
        lambda dtype: layers.GRU(3, dtype=dtype),
    ),
    "stateful": _layer("sequence", "vector", layers.GRU, 4, stateful=True),
    "pool1d": _layer("sequence", "vector", layers.GlobalAveragePooling1D),
    "flat": _layer("sequence", "vector", layers.Flatten),
    "conv": _layer("image", None, layers.Conv2D, 4, 3, padding="same"),
    "strided": _layer(
        "image", None, layers.Conv2D, 4, 2, strides=2, padding="same"
    ),
    "dilated": _layer(
        "image", None, layers.Conv2D, 4, 2, dilation_rate=2, padding="same"
    ),
    "depthwise": _layer(
        "image", None, layers.DepthwiseConv2D, 3, padding="same"
    ),
    "separable": _layer(
        "image", None, layers.SeparableConv2D, 4, 3, padding="same"
    ),
    "transposed": _layer(
        "image", None, layers.Conv2DTranspose, 3, 2, padding="same"
    ),
    "spatial_dropout": _layer("image", None, layers.SpatialDropout2D, 0.3),
    "max_pool": _layer("image", None, layers.MaxPooling2D, padding="same"),
    "upsampled": _layer("image", None, layers.UpSampling2D),
    "padded": _layer("image", None, layers.ZeroPadding2D),
    "rows": _layer("image", "sequence", layers.Reshape, (-1, 2)),
    "pool2d": _layer("image", "vector", layers.GlobalAveragePooling2D),
    "max_pool2d": _layer("image", "vector", layers.GlobalMaxPooling2D),
    "embedding": _layer("tokens", "sequence", layers.Embedding, VOCABULARY, 4),
    "positions": _layer(
        "tokens", "sequence", TokenAndPosition, VOCABULARY, 6, 4
    ),
    "tied": _layer(
        "tokens",
        "sequence",
        layers.ReversibleEmbedding,
        VOCABULARY,
        4,
        call=lambda layer, x: layer(layer(x), reverse=True),
    ),
    "untied": _layer(
        "tokens",
        "sequence",
        layers.ReversibleEmbedding,
        VOCABULARY,
        4,
        tie_weights=False,
        call=lambda layer, x: layer(layer(x), reverse=True),
    ),
    "add": _merge(layers.Add),
    "multiply": _merge(layers.Multiply),
    "concatenate": _merge(layers.Concatenate),
}
