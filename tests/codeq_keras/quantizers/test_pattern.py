"""2:4: two of each four input channels stay, in every kernel that has them."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers
from support.gradients import gradient
from support.training import compile_and_fit

import codeq_keras
from codeq_keras import CoDeQConfig, CompressionBudget
from codeq_keras.ops.blocks import keep_two_of_four

CONFIG = CoDeQConfig(sparsity_pattern="2:4")
CONFIGS = {
    "dead_zone": CONFIG,
    "uniform": CoDeQConfig(sparsity_pattern="2:4", level_grid="uniform"),
    "channels": CoDeQConfig(sparsity_pattern="2:4", axis=-1),
    "ternary": CoDeQConfig(sparsity_pattern="2:4", bit_width=2),
    "learned": CoDeQConfig(sparsity_pattern="2:4", bit_width="learned"),
}


def counts(codes, axis):
    """Non-zeros of each group of four along an axis."""
    codes = np.moveaxis(codes, axis, -1)
    return np.count_nonzero(codes.reshape(*codes.shape[:-1], -1, 4), axis=-1)


def test_the_two_largest_stay_and_ties_go_to_the_earlier():
    groups = list(itertools.product([0.0, 1.0, -1.0, 2.0, 3.0], repeat=4))
    kept = keras.ops.convert_to_numpy(
        keep_two_of_four(np.array(groups, "float32"), -1)
    )

    for group, row in zip(groups, kept, strict=True):
        stay = sorted(range(4), key=lambda i: -abs(group[i]))[:2]
        assert row.tolist() == [
            value if i in stay else 0.0 for i, value in enumerate(group)
        ]


def test_equal_weights_keep_exactly_two():
    kept = keep_two_of_four(np.ones((3, 8, 5), "float32"), 1)

    assert set(counts(np.array(kept), 1).ravel()) == {2}


def test_weights_at_zero_learn():
    quantizer = codeq_keras.DeadZoneQuantizer(CONFIG)
    kernel = np.array([[0.9], [0.5], [0.1], [-0.2]], "float32")
    quantizer.build(kernel.shape)
    quantizer.update_abs_bound(kernel)
    slope = np.array([[1.0], [2.0], [3.0], [4.0]], "float32")

    [result] = gradient(lambda w: keras.ops.sum(quantizer(w) * slope), kernel)

    np.testing.assert_array_equal(result, slope)
    assert counts(quantizer.quantized_weight(kernel).codes, 0).tolist() == [[2]]


@pytest.mark.parametrize("name", CONFIGS)
def test_integers_values_and_zeros_agree_on_every_grid(name):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 8, 6)).astype("float32")
    quantizer = codeq_keras.DeadZoneQuantizer(CONFIGS[name])
    quantizer.build(kernel.shape)
    quantizer.update_abs_bound(kernel)

    weight = quantizer.quantized_weight(kernel)

    assert counts(weight.codes, 2).max() <= 2
    assert weight.sparsity_pattern == "2:4"
    np.testing.assert_array_equal(weight.dequantize(), quantizer(kernel))
    for count in (quantizer.zero_fraction, quantizer.count_zeros):
        # One float32 rounding of a mean.
        assert float(count(kernel)) == pytest.approx(weight.sparsity, abs=1e-6)


def test_zeros_of_the_pattern_do_not_pull_the_dead_zone():
    kernel = np.array([[0.9], [0.8], [0.0], [0.0]], "float32")
    kernel = np.tile(kernel, (4, 1))
    quantizer = codeq_keras.DeadZoneQuantizer(CONFIG)
    quantizer.build(kernel.shape)
    logits = quantizer.state.trainable_variables[0]

    def zeros(logit):
        with keras.StatelessScope(state_mapping=[(logits, logit)]):
            return quantizer.zero_fraction(kernel)

    [pull] = gradient(zeros, np.array([1.5], "float32"))

    # The others lie far outside of the dead zone; zeros have a slope of 2.5.
    assert abs(pull) < 0.1


# Layers, the axis of the groups, the kernel's name.
LAYERS = {
    "dense": (layers.Dense(3), (8,), 0),
    "conv": (layers.Conv2D(3, 2), (4, 4, 8), 2),
    "conv1d": (layers.Conv1D(3, 2), (4, 8), 1),
    "grouped": (layers.Conv2D(4, 2, groups=2), (4, 4, 8), 2),
    "transposed": (layers.Conv2DTranspose(3, 2), (4, 4, 8), 3),
    "einsum": (layers.EinsumDense("abc,cd->abd", (None, 3)), (5, 8), 0),
    "turned": (layers.EinsumDense("abc,dc->abd", (None, 3)), (5, 8), 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_groups_run_along_the_input_channels(name):
    layer, shape, axis = LAYERS[name]
    layer = type(layer).from_config(layer.get_config())
    model = keras.Sequential([keras.Input(shape), layer])

    qmodel = codeq_keras.quantize_model(model, CONFIG)

    [weight] = codeq_keras.quantized_weights(qmodel).values()
    assert set(counts(weight.codes, axis).ravel()) <= {0, 1, 2}
    assert weight.sparsity == pytest.approx(0.5, abs=0.05)  # Few round to 0.
    assert codeq_keras.report(qmodel).layers[0].sparsity_pattern == "2:4"


# What cannot have the pattern, and the reason in words.
OBSTACLES = {
    "three channels": (layers.Conv2D(4, 3), (8, 8, 3), "3 input channels"),
    "depthwise": (layers.DepthwiseConv2D(3), (8, 8, 4), "no input channels"),
    "groups": (layers.Conv2D(4, 3, groups=4), (8, 8, 8), "2 input channels"),
    "two axes": (
        layers.EinsumDense("abc,bcd->ad", 3),
        (4, 8),
        "sums over 2 axes",
    ),
    "look-up": (layers.Embedding(8, 4), (3,), "no input channels"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_a_kernel_without_groups_trains_without_and_is_named(name):
    layer, shape, reason = OBSTACLES[name]
    layer = type(layer).from_config(layer.get_config())
    model = keras.Sequential([keras.Input(shape), layer])

    with pytest.warns(UserWarning, match=reason) as caught:
        qmodel = codeq_keras.quantize_model(model, CONFIG)

    report = codeq_keras.report(qmodel)
    assert sum("2:4" in str(warning.message) for warning in caught) == 1
    assert report.layers[0].sparsity_pattern is None
    assert reason in report.layers[0].pattern_obstacle
    assert reason in str(report)
    assert report.sparsity < 0.3


def network():
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu"),
            layers.Dense(4),
        ]
    )


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)).astype("float32")
    return x, x[:, :4].argmax(-1)


@pytest.mark.parametrize("jit", ["auto", True])
def test_budget_counts_the_zeros_of_the_pattern(jit):
    qmodel = codeq_keras.quantize_model(network(), CONFIG)

    compile_and_fit(
        qmodel,
        data(),
        callbacks=[CompressionBudget(sparsity=0.7)],
        epochs=4,
        jit_compile=jit,
    )

    assert codeq_keras.report(qmodel).sparsity == pytest.approx(0.7, abs=0.03)
    for weight in codeq_keras.quantized_weights(qmodel).values():
        assert counts(weight.codes, 0).max() <= 2


def test_saved_model_has_the_same_zeros(tmp_path):
    qmodel = codeq_keras.quantize_model(network(), CONFIG)
    path = tmp_path / "model.keras"
    qmodel.save(path)

    loaded = keras.saving.load_model(path)

    before = codeq_keras.quantized_weights(qmodel)
    after = codeq_keras.quantized_weights(loaded)
    for name, weight in before.items():
        np.testing.assert_array_equal(weight.codes, after[name].codes)
        assert after[name].sparsity_pattern == "2:4"


def test_quantizer_of_its_own_refuses_an_axis_without_groups():
    quantizer = codeq_keras.DeadZoneQuantizer(CONFIG)

    with pytest.raises(ValueError, match="pattern_axis=-2 of a kernel"):
        quantizer.build((3, 3, 6, 8))


@pytest.mark.parametrize(
    "fields",
    [
        {"sparsity_pattern": "1:4"},
        {"sparsity_pattern": 2},
        {"sparsity_pattern": "2:4", "sparsity_block": 2},
        {"sparsity_pattern": "2:4", "level_grid": "paper"},
    ],
)
def test_what_is_no_pattern_or_excludes_it_is_refused(fields):
    with pytest.raises(ValueError, match="Received: sparsity_pattern="):
        CoDeQConfig(**fields)
