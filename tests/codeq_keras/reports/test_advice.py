"""SNR of kernels, the bits that keep more at their bytes, and the advice."""

import json

import keras
import numpy as np
import pytest

import codeq_keras
from codeq_keras import CoDeQConfig, costs
from codeq_keras.reports.advice import sentences
from codeq_keras.reports.choices import (
    Choice,
    Rate,
    Weights,
    coded_bits,
    snr_db,
)
from codeq_keras.reports.records import KernelReport


@pytest.fixture
def head(rng):
    """A layer of 4,096 normal weights."""
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(64, name="head")]
    )
    model.layers[0].kernel.assign(rng.normal(size=(64, 64)))
    return model


def quantized(model, sparsity=None, **config):
    """The model, with the dead zone that makes so many zeros."""
    qmodel = codeq_keras.quantize_model(model, CoDeQConfig(**config))
    if sparsity is not None:
        for kernel in qmodel.quantized_kernels:
            edge = np.quantile(np.abs(kernel.variable), sparsity)
            ratio = edge / float(np.max(kernel.quantizer.abs_bound))
            kernel.quantizer.assign_logits(dead_zone=np.arctanh(1 - ratio))
    return qmodel


def kernel_report(path="a", *, size_bytes=100, **fields):
    return KernelReport(
        path=path,
        is_quantized=True,
        float_reason=None,
        num_weights=100,
        num_macs=100,
        sparsity=0.6,
        bit_width=4,
        entropy_bits=2.0,
        size_bytes=size_bytes,
        levels=np.zeros(0),
        histogram=(np.zeros(0), np.zeros(0)),
        **{"snr_db": 8.9, **fields},
    )


# --- The choices, pure -------------------------------------------------------


@pytest.mark.parametrize("bit_width", [2, 4, 8])
@pytest.mark.parametrize("density", [0.0, 0.3, 0.99, 1.0])
def test_coded_bits_are_those_of_the_budget(bit_width, density):
    cost = costs.KernelCost(8, None, density, bit_width, num_scales=0)

    expected = float(costs.size_bytes([cost]))

    assert coded_bits(np.array(density), bit_width) == pytest.approx(
        expected, abs=1e-4
    )


@pytest.mark.parametrize(
    ("entropy", "bit_width", "snr"),
    [(1.0, 2, 4.3), (1.5, 3, 7.1), (2.0, 3, 10.1), (3.0, 4, 16.3)],
)
def test_best_choice_of_normal_weights_is_known(rng, entropy, bit_width, snr):
    weights = Weights(rng.normal(size=1 << 14))

    found = [weights.best(b, Rate(entropy, 8.0)) for b in (2, 3, 4, 5)]

    best = max(found, key=lambda choice: choice.snr_db)
    assert best.bit_width == bit_width or entropy == 1.5  # 2 and 3: a tie.
    assert best.snr_db == pytest.approx(snr, abs=0.3)  # Of one trained kernel.


def test_choice_keeps_what_its_levels_keep(rng):
    # The grid itself, at the zeros and the bound that were found.
    w = rng.normal(size=4096).astype("float32")
    choice = Weights(w).best(3, Rate(8.0, 8.0))
    ratio = np.quantile(np.abs(w), choice.sparsity)

    reached = []
    for bound in np.linspace(ratio + 0.1, np.abs(w).max(), 40):
        values = codeq_keras.ops.fake_quantize(
            w,
            dead_zone_logit=np.arctanh(1 - ratio / bound),
            bit_width=3,
            abs_bound=bound,
            level_grid="paper",
        )
        reached.append(snr_db(w, keras.ops.convert_to_numpy(values)))

    assert choice.snr_db == pytest.approx(max(reached), abs=0.1)


def test_a_limit_is_kept(rng):
    weights = Weights(rng.normal(size=4096))

    assert weights.best(3, Rate(8.0, 1.0)).sparsity > 0.75
    assert weights.best(3, Rate(0.0, 1.0)) is None


# --- The report --------------------------------------------------------------


def test_snr_is_that_of_the_deployed_weights(cnn):
    qmodel = codeq_keras.quantize_model(cnn, overrides={"head": None})

    conv, _, head = codeq_keras.report(qmodel).layers

    latent = cnn.get_layer("conv").kernel.numpy()
    error = (
        latent
        - codeq_keras.quantized_weights(qmodel)["conv/kernel"].dequantize()
    )
    expected = 10 * np.log10(np.sum(latent**2) / np.sum(error**2))
    assert conv.snr_db == pytest.approx(expected, abs=1e-3)
    assert head.snr_db is None


@pytest.mark.parametrize("level_grid", ["dead_zone", "uniform"])
def test_four_bits_with_many_zeros_are_better_three(head, level_grid):
    report = codeq_keras.report(quantized(head, 0.6, level_grid=level_grid))

    [kernel] = report.layers
    assert kernel.better.bit_width == 3
    assert kernel.better.sparsity < 0.5
    assert kernel.better.snr_db >= kernel.snr_db + 1
    assert report.advice[0].startswith("This budget is better met with 3 bits")
    assert report.advice[1].startswith("head/kernel: 4 bits with 60% zeros")
    assert "better met with 3 bits" in str(report)


def test_what_is_advised_takes_no_more_bytes_and_keeps_more(head):
    [now] = codeq_keras.report(quantized(head, 0.6)).layers

    better = now.better
    [then] = codeq_keras.report(
        quantized(head, better.sparsity, bit_width=better.bit_width)
    ).layers

    assert then.size_bytes <= 1.01 * now.size_bytes
    # Its bound is a quantile, not the one that was searched for.
    assert then.snr_db >= now.snr_db + 0.5


@pytest.mark.parametrize("bit_width", [2, 3, 4, 8])
def test_dense_kernels_get_no_advice(head, bit_width):
    report = codeq_keras.report(quantized(head, bit_width=bit_width))

    assert report.advice == ()
    assert "advice" not in str(report)


def test_zeros_that_pay_get_no_advice(head):
    assert codeq_keras.report(quantized(head, 0.7, bit_width=2)).advice == ()


def test_weights_on_their_levels_get_no_advice(head):
    kernel = head.layers[0].kernel
    kernel.assign(np.round(np.clip(kernel.numpy(), -2, 2) * 3.5) * 2 / 7)
    config = {"level_grid": "uniform", "range_quantile": 1.0}

    assert codeq_keras.report(quantized(head, 0.6, **config)).advice == ()


@pytest.mark.parametrize(
    "config",
    [
        {"level_grid": "paper"},
        {"bit_width": "learned", "max_bit_width": 4},
        {"sparsity_pattern": "2:4"},
        {"sparsity_block": 2},
    ],
    ids=["paper", "learned", "2:4", "block"],
)
def test_other_bits_are_not_advised_where_none_may_be_chosen(head, config):
    report = codeq_keras.report(quantized(head, 0.6, **config))

    assert report.advice == ()
    assert 0 < report.layers[0].snr_db < 15


def test_frozen_layers_get_no_advice(head):
    head.layers[0].trainable = False

    assert codeq_keras.report(quantized(head, 0.6)).advice == ()


def test_model_left_in_float_gets_no_advice(head):
    qmodel = codeq_keras.quantize_model(head, overrides={"": None})

    assert codeq_keras.report(qmodel).advice == ()


def test_one_scale_per_channel_is_advised_alike(head, rng):
    kernel, config = head.layers[0].kernel, {"axis": -1}
    [plain] = codeq_keras.report(quantized(head, 0.6, **config)).layers
    factors = np.exp2(rng.integers(-3, 4, 64))
    qmodel = quantized(head, 0.6, **config)
    [quantized_kernel] = qmodel.quantized_kernels
    quantizer = quantized_kernel.quantizer
    quantized_kernel.variable.assign(kernel * factors)
    quantizer.hold_abs_bound(quantizer.abs_bound * factors)

    [scaled] = codeq_keras.report(qmodel).layers

    assert scaled.sparsity == pytest.approx(plain.sparsity)
    assert scaled.better.bit_width == plain.better.bit_width == 3
    # Channels of a larger scale count more.
    assert scaled.better.snr_db == pytest.approx(plain.better.snr_db, abs=0.5)


@pytest.fixture
def gated(rng):
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((16,)), layers.Dense(64, name="a"), layers.Dense(8)]
    )
    model.layers[0].kernel.assign(rng.normal(size=(16, 64)))
    return codeq_keras.quantize_model(model, channel_multiple=8)


def test_removed_channels_do_not_count(gated):
    for kernel in gated.quantized_kernels:
        kernel.quantizer.assign_logits(dead_zone=0.8)
    gated.channel_gates.held_counts.assign([32])

    before = codeq_keras.report(gated)
    after = codeq_keras.report(codeq_keras.remove_channels(gated))

    assert before.layers[0].sparsity > 0.5 + after.layers[0].sparsity / 4
    for kernel, small in zip(before.layers, after.layers, strict=True):
        assert kernel.snr_db == pytest.approx(small.snr_db, abs=1e-3)
        assert kernel.better == small.better
    assert before.layers[0].better is not None


# --- With samples ------------------------------------------------------------


@pytest.fixture
def two_branches():
    """Both branches have as good levels; one is a thousandth of the sum."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((32,))
    large = layers.Dense(32, name="large")(inputs)
    small = layers.Dense(32, name="small")(inputs)
    small = layers.Rescaling(0.001)(small)
    return keras.Model(inputs, layers.Add()([large, small]))


def test_samples_tell_which_kernel_reaches_the_outputs(two_branches, rng):
    qmodel = codeq_keras.quantize_model(two_branches, CoDeQConfig(3))
    samples = rng.normal(size=(64, 32)).astype("float32")

    report = codeq_keras.report(qmodel, samples=samples)

    kernels = {k.path: k for k in report.layers}
    large, small = kernels["large/kernel"], kernels["small/kernel"]
    assert large.snr_db == pytest.approx(small.snr_db, abs=2)
    # Independent inputs of unit variance: the weights' own SNR.
    assert large.output_snr_db == pytest.approx(large.snr_db, abs=1)
    assert small.output_snr_db == pytest.approx(small.snr_db + 60, abs=2)


def test_samples_change_nothing_in_the_model(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn, activation_bit_width=8)
    before = [np.array(v) for v in qmodel.variables]

    codeq_keras.report(qmodel, samples=data[0])

    for variable, value in zip(qmodel.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, variable.path)


def test_what_batch_norm_takes_away_is_no_error(rng):
    layers = keras.layers
    inputs = keras.Input((32,))
    x = layers.Dense(32, use_bias=False, name="doubled")(inputs)
    x = layers.BatchNormalization(epsilon=0.0)(x)
    model = keras.Model(inputs, layers.Dense(8, name="head")(x))
    model.get_layer("doubled").kernel.assign(np.diag(np.full(32, 0.8)))
    # Its only level is 1, on which 0.8 saturates or rounds: a gain, no error.
    qmodel = codeq_keras.quantize_model(
        model, CoDeQConfig(2, level_grid="paper", range_quantile=1.0)
    )
    qmodel.quantized_kernels[0].quantizer.hold_abs_bound(1.0)
    samples = rng.normal(size=(64, 32)).astype("float32")

    report = codeq_keras.report(qmodel, samples=samples)

    assert report.layers[0].snr_db < 15
    assert report.layers[0].output_snr_db > 60


def test_samples_of_another_shape_are_refused(cnn):
    qmodel = codeq_keras.quantize_model(cnn)

    with pytest.raises(ValueError, match="`samples` must have the shapes"):
        codeq_keras.report(qmodel, samples=np.zeros((8, 3, 3, 3)))


# --- The words ---------------------------------------------------------------


def test_advice_is_in_the_dict_and_the_dict_is_json(head):
    report = codeq_keras.report(quantized(head, 0.6))

    loaded = json.loads(json.dumps(report.to_dict()))

    assert tuple(loaded["advice"]) == report.advice
    assert loaded["layers"][0]["better"]["bit_width"] == 3


def test_advice_is_a_sentence_per_kernel_the_largest_first():
    better = Choice(3, 0.43, 10.1)
    kernels = [
        kernel_report("small", better=better),
        kernel_report("large", better=better, size_bytes=200),
        *(kernel_report(name) for name in "abc"),
    ]

    first, second = sentences(kernels)

    assert first == (
        "large: 4 bits with 60% zeros (8.9 dB). 3 bits with 43% zeros "
        "(10.1 dB) take no more bytes."
    )
    assert second.startswith("small: ")


def test_bytes_pay_where_few_of_them_make_much_of_the_error():
    kernels = [
        kernel_report("a", size_bytes=10, output_snr_db=20.0),
        kernel_report("b", size_bytes=1000, output_snr_db=20.0),
        kernel_report("tiny", size_bytes=1, output_snr_db=40.0),
    ]

    [text] = sentences(kernels)

    assert text.startswith("More bytes pay most in a: it makes 50% of the")
    assert "with 1.0% of the bytes" in text


def test_lines_of_a_printed_report_are_short(head):
    text = str(codeq_keras.report(quantized(head, 0.6)))

    assert max(map(len, text.splitlines())) <= 100
