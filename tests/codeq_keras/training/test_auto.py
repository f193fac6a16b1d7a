"""The bits of `bit_width="auto"`, chosen by a budget."""

import warnings

import keras
import numpy as np
import pytest

import codeq_keras
from codeq_keras import CoDeQConfig
from codeq_keras.costs import KernelCost, deployed_costs
from codeq_keras.training.auto import budgeted_bit_width, choose_bit_width

DENSE = [KernelCost(100, 1000, 1.0, 4), KernelCost(300, 3000, 1.0, 4)]


def bits_of(qmodel):
    return [kernel.bit_width for kernel in codeq_keras.report(qmodel).layers]


def train(qmodel, data, verbose=0, **budget):
    qmodel.compile("adam", "sparse_categorical_crossentropy")
    callbacks = [codeq_keras.CompressionBudget(**budget)] if budget else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # One epoch meets no budget.
        qmodel.fit(*data, callbacks=callbacks, verbose=verbose)


@pytest.mark.parametrize(
    ("name", "limit", "bits"),
    [
        ("relative_bops", 0.1, 4),
        ("relative_bops", 0.05, 3),
        ("relative_bops", 0.025, 3),
        ("relative_bops", 0.019, 2),
        # The same weights, as bits.
        ("bits_per_weight", 3.2, 4),
        ("bits_per_weight", 1.6, 3),
        ("bits_per_weight", 0.6, 2),
        # 2.9, 2.5 and 1.2 coded bits for each of the 400, and two scales.
        ("size_bytes", 400 * 2.9 / 8 + 8, 4),
        ("size_bytes", 400 * 2.5 / 8 + 8, 3),
        ("size_bytes", 400 * 1.2 / 8 + 8, 2),
    ],
)
def test_budget_chooses(name, limit, bits):
    assert budgeted_bit_width(name, limit, DENSE, [True, True]) == bits


def test_what_other_kernels_cost_is_left_out():
    # The first one stays in float: a quarter of all bit operations.
    costs = [KernelCost(100, 1000, 1.0, 32, is_quantized=False), DENSE[1]]

    found = [
        budgeted_bit_width("relative_bops", 0.25 + part, costs, [False, True])
        for part in (0.08, 0.04, 0.01)
    ]

    assert found == [4, 3, 2]


def test_bits_are_four_until_a_budget_chooses(cnn, data, capsys):
    qmodel = codeq_keras.quantize_model(
        cnn, overrides={"head": CoDeQConfig(bit_width=6)}
    )
    assert bits_of(qmodel) == [4, 4, 6]

    train(qmodel, data, verbose=2, bits_per_weight=1.5)

    assert bits_of(qmodel) == [3, 3, 6]
    said = capsys.readouterr().out
    assert "CompressionBudget(bits_per_weight=1.5) chose 3 bits" in said


@pytest.mark.parametrize(
    ("rate", "callbacks", "is_said"),
    [
        (1e-3, [], True),
        (keras.optimizers.schedules.CosineDecay(1e-3, 10), [], False),
        (1e-3, [keras.callbacks.LearningRateScheduler(lambda _: 1e-3)], False),
    ],
    ids=["constant", "cosine", "callback"],
)
def test_constant_learning_rate_is_advised_against(
    cnn, data, capsys, rate, callbacks, is_said
):
    qmodel = codeq_keras.quantize_model(cnn)
    qmodel.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy"
    )
    budget = codeq_keras.CompressionBudget(sparsity=0.1)
    qmodel.fit(*data, callbacks=[budget, *callbacks], verbose=2)

    assert ("learning rate is constant" in capsys.readouterr().out) == is_said


def test_each_budget_chooses_anew(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn)

    train(qmodel, data, relative_bops=0.05)
    assert bits_of(qmodel) == [3, 3, 3]
    train(qmodel, data)  # Without a budget they stay.
    assert bits_of(qmodel) == [3, 3, 3]
    train(qmodel, data, relative_bops=0.1)
    assert bits_of(qmodel) == [4, 4, 4]


def test_budget_of_zeros_leaves_the_bits(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn)

    train(qmodel, data, relative_bops=0.05)
    train(qmodel, data, sparsity=0.9)

    assert bits_of(qmodel) == [3, 3, 3]


def test_refused_budget_chooses_nothing(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn)
    qmodel.compile("adam", "sparse_categorical_crossentropy")
    budget = codeq_keras.CompressionBudget(
        relative_bops=0.02, max_sparsity={"nothing": 0.9}
    )

    with pytest.raises(ValueError, match="max_sparsity"):
        qmodel.fit(*data, callbacks=[budget], verbose=0)

    assert bits_of(qmodel) == [4, 4, 4]


def test_chosen_bits_are_saved(cnn, data, tmp_path):
    qmodel = codeq_keras.quantize_model(cnn, CoDeQConfig(axis=-1))
    train(qmodel, data, relative_bops=0.05)
    trained = codeq_keras.quantized_weights(qmodel)

    qmodel.save(tmp_path / "model.keras")
    qmodel.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    other = codeq_keras.quantize_model(cnn, CoDeQConfig(axis=-1))
    other.load_weights(tmp_path / "model.weights.h5")

    for model in (loaded, other):
        found = codeq_keras.quantized_weights(model)
        assert bits_of(model) == [3, 3, 3]
        for path, weight in trained.items():
            np.testing.assert_array_equal(found[path].codes, weight.codes)


def test_chosen_bits_train_as_bits_of_the_config(cnn, data):
    def trained(bit_width):
        keras.utils.set_random_seed(0)
        qmodel = codeq_keras.quantize_model(cnn, CoDeQConfig(bit_width))
        train(qmodel, data, relative_bops=0.05)
        return codeq_keras.quantized_weights(qmodel)

    fixed, auto = trained(3), trained("auto")

    for path, weight in fixed.items():
        assert auto[path].bit_width == 3
        # Compiled otherwise, sums round otherwise: a weight in fifty.
        assert np.mean(auto[path].codes == weight.codes) > 0.98


def test_quantizer_of_another_kind_gets_four_bits(cnn):
    @keras.saving.register_keras_serializable(package="tests")
    class Other(keras.layers.Layer):
        def __init__(self, config, axis=None, **kwargs):
            super().__init__(**kwargs)
            self.config, self.num_scales = config, 1
            self.bit_width = config.bit_width

        def zero_fraction(self, weights):
            return keras.ops.mean(keras.ops.cast(weights == 0, "float32"))

        def quantized_weight(self, weights):
            raise NotImplementedError

        def call(self, weights):
            return weights

    qmodel = codeq_keras.quantize_model(cnn, quantizer=Other)

    assert {k.quantizer.bit_width for k in qmodel.quantized_kernels} == {4}


def test_compression_without_training_chooses_three_or_four(cnn, data):
    def bits(**budget):
        qmodel = codeq_keras.compress_post_training(
            cnn, data[0], CoDeQConfig(axis=-1), verbose=0, **budget
        )
        return set(bits_of(qmodel))

    assert bits(relative_bops=0.1) == bits() == {4}
    assert bits(relative_bops=0.05) == bits(relative_bops=0.02) == {3}


def test_small_budget_learns_the_bits_from_two(cnn, data, capsys):
    qmodel = codeq_keras.quantize_model(cnn)
    train(qmodel, data, verbose=2, relative_bops=0.015)
    assert "chose to learn the bits, from 2" in capsys.readouterr().out

    for kernel in qmodel.quantized_kernels:
        assert kernel.quantizer.least_bit_width == 2
        # Both ends of what a training may come to.
        kernel.quantizer.assign_logits(bit_width=4.0)
        assert kernel.deployed().bit_width == 8
        kernel.quantizer.assign_logits(bit_width=0.0)
        assert kernel.deployed().bit_width == 2


def test_least_of_learned_bits_follows_the_budget(cnn, data, capsys):
    qmodel = codeq_keras.quantize_model(
        cnn, CoDeQConfig("learned"), overrides={"head": CoDeQConfig(2)}
    )
    hidden, _, head = qmodel.quantized_kernels
    assert hidden.quantizer.least_bit_width == 3

    train(qmodel, data, verbose=2, relative_bops=0.1)
    assert hidden.quantizer.least_bit_width == 3
    assert "'auto'" not in capsys.readouterr().out  # No kernel has it.
    train(qmodel, data, relative_bops=0.015)

    assert hidden.quantizer.least_bit_width == 2
    hidden.quantizer.assign_logits(bit_width=0.0)
    assert hidden.deployed().bit_width == 2
    assert head.quantizer.least_bit_width == 2


@pytest.mark.parametrize(
    ("config", "budgets", "bits"),
    [
        (CoDeQConfig("learned"), [0.1], 4),
        (CoDeQConfig("learned"), [0.05], 3),
        (CoDeQConfig("learned"), [0.015], 2),
        (CoDeQConfig("auto"), [0.015], 2),
        # They have been 3, but another least begins anew.
        (CoDeQConfig("learned"), [0.05, 0.015], 2),
        # Not chosen by a budget: from the most.
        (CoDeQConfig("learned", min_bit_width=3), [0.05], 8),
        # All that there is.
        (CoDeQConfig("learned", max_bit_width=3), [0.1], 3),
        (CoDeQConfig("learned", min_bit_width=4, max_bit_width=4), [0.1], 4),
    ],
)
def test_learned_bits_begin_with_those_of_the_budget(
    cnn, config, budgets, bits
):
    qmodel = codeq_keras.quantize_model(cnn, config)
    for budget in budgets:
        choose(qmodel, budget)

    assert set(bits_of(qmodel)) == {bits}


def test_learned_bits_of_an_earlier_budget_stay(cnn):
    qmodel = codeq_keras.quantize_model(cnn, CoDeQConfig("learned"))
    choose(qmodel, 0.05)
    qmodel.quantized_kernels[0].quantizer.assign_logits(bit_width=0.5)

    choose(qmodel, 0.1)

    assert bits_of(qmodel) == [5, 3, 3]


def choose(qmodel, relative_bops):
    found = deployed_costs(qmodel.kernels)
    choose_bit_width(qmodel.kernels, found, "relative_bops", relative_bops)
