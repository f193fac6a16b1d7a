"""Weights that are no kernels: in the report, in costs and in warnings."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import codeq_keras
from codeq_keras.architecture.kernels import find_float_weights, find_kernels


class Linear(layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 64), name="w")

    def call(self, x):
        return ops.matmul(x, self.w)


class Positions(layers.Layer):
    """Adds a table, which is longer than the input, and one as long."""

    def build(self, shape):
        _, length, width = shape
        self.table = self.add_weight(shape=(2 * length, width), name="table")
        self.exact = self.add_weight(shape=(length, width), name="exact")

    def call(self, x):
        return x + self.table[: x.shape[1]] + self.exact


class Scale(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="kernel")

    def call(self, x):
        return x * self.scale


class Cell(layers.Layer):
    state_size = output_size = 6

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 6), name="w")
        self.u = self.add_weight(shape=(6, 6), name="u")

    def call(self, x, states):
        output = ops.tanh(ops.matmul(x, self.w) + ops.matmul(states[0], self.u))
        return output, [output]


class Own(keras.Model):
    """A parameter directly on a subclassed model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(8, name="dense")

    def build(self, shape):
        self.dense.build(shape)
        self.w = self.add_weight(shape=(8, 5), name="w")

    def call(self, x):
        return ops.matmul(self.dense(x), self.w)


def of_layer(layer, *shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.Dense(3)(layer(inputs)))


def own_model():
    model = Own()
    model.build((None, 7))
    return model


# Expected: (path, MACs, a word of the reason).
MODELS = {
    "custom layer": (
        lambda: of_layer(Linear(name="a"), 16),
        [("a/w", 16 * 64, "not called")],
    ),
    "custom layer on a sequence": (
        lambda: of_layer(Linear(name="a"), 12, 16),
        [("a/w", 12 * 16 * 64, "not called")],
    ),
    "positions": (
        lambda: of_layer(Positions(name="a"), 12, 16),
        [("a/table", 0, "not in the BOPs"), ("a/exact", 0, "element")],
    ),
    "PReLU": (
        lambda: of_layer(layers.PReLU(name="a"), 8, 8, 4),
        [("a/alpha", 0, "element")],
    ),
    "kernel of one axis": (
        lambda: of_layer(Scale(name="a"), 12, 16),
        [("a/kernel", 0, "fewer than two")],
    ),
    "recurrent cell": (
        lambda: of_layer(layers.RNN(Cell(name="c"), name="a"), 12, 16),
        [
            ("a/c/w", 12 * 16 * 6, "not called"),
            ("a/c/u", 12 * 6 * 6, "not called"),
        ],
    ),
    "subclassed model": (own_model, [("w", 0, "not in the BOPs")]),
}


@pytest.mark.parametrize(
    ("model", "expected"), MODELS.values(), ids=MODELS.keys()
)
def test_every_weight_of_two_axes_is_found(model, expected):
    found = find_float_weights(model())

    assert [(w.path, w.num_macs) for w in found] == [e[:2] for e in expected]
    for weight, (_, _, word) in zip(found, expected, strict=True):
        assert word in weight.reason


def test_nothing_that_trains_in_attention_is_missing():
    inputs = keras.Input((12, 16))
    outputs = layers.GroupQueryAttention(8, 4, 2, name="grouped")(
        *[layers.MultiHeadAttention(2, 8, name="all")(inputs, inputs)] * 2
    )
    model = keras.Model(inputs, outputs)

    kernels = find_kernels(model)

    # Projections of 16 numbers to heads of 8, at 12 places, and back.
    heads = [2, 2, 2, 2, 4, 2, 2, 4]
    assert [k.num_macs for k in kernels] == [12 * 16 * 8 * n for n in heads]
    assert find_float_weights(model) == []  # All others are biases.


@pytest.mark.parametrize("tied", [True, False])
def test_projection_of_a_reversible_embedding_counts(tied):
    tokens = keras.Input((6,), dtype="int32")
    table = layers.ReversibleEmbedding(20, 8, tie_weights=tied, name="table")
    model = keras.Model(tokens, table(table(tokens), reverse=True))

    report = codeq_keras.report(codeq_keras.quantize_model(model))

    macs = {k.path: k.num_macs for k in report.layers}
    if tied:
        assert macs == {"table/embeddings": 6 * 8 * 20}
    else:
        assert macs == {
            "table/embeddings": 0,
            "table/reverse_embeddings": 6 * 8 * 20,
        }
    assert all(k.is_quantized for k in report.layers)


def test_reversible_embedding_that_only_looks_up_has_no_macs():
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.ReversibleEmbedding(20, 8),
            layers.Dense(3),
        ]
    )

    assert [k.num_macs for k in find_kernels(model)] == [0, 6 * 8 * 3]


def test_costs_count_what_stays_in_float():
    model = of_layer(Linear(name="a"), 16)

    report = codeq_keras.report(codeq_keras.quantize_model(model))

    dense, w = report.layers
    assert (dense.is_quantized, w.is_quantized) == (True, False)
    assert w.size_bytes == 4 * 16 * 64
    macs, bits = [64 * 3, 16 * 64], [4 * (1 - dense.sparsity), 32]
    expected = np.dot(macs, bits) / (32 * sum(macs))
    assert report.relative_bops == pytest.approx(expected)
    assert "left in float: not called 'kernel'" in str(report)


def fit_with_budget(model, shape):
    qmodel = codeq_keras.quantize_model(model)
    qmodel.compile("sgd", "mse")
    x = np.zeros((4, *shape), "float32")
    y = np.zeros((4, *model.output_shape[1:]), "float32")
    # Met from the beginning, so that nothing else is warned of.
    budget = codeq_keras.CompressionBudget(bits_per_weight=5)
    qmodel.fit(x, y, verbose=0, callbacks=[budget])


def test_budget_says_what_it_does_not_cover():
    with pytest.warns(UserWarning, match=r"1,024 of 1,216 .* 'a/w'"):
        fit_with_budget(of_layer(Linear(name="a"), 16), (16,))


def test_budget_is_silent_about_few_weights():
    inputs = keras.Input((16, 16))
    x = layers.Dense(64)(layers.PReLU(shared_axes=[1])(inputs))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*stay in float")
        fit_with_budget(keras.Model(inputs, layers.Dense(64)(x)), (16, 16))
