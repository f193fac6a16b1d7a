"""Zeros that a budget has reached stay; frozen kernels keep their codes."""

import keras
import numpy as np
import pytest
from support.training import compile_and_fit

import codeq_keras
from codeq_keras import CoDeQConfig, CompressionBudget

TARGET = 0.8
CONFIGS = {
    "default": CoDeQConfig(),
    "channels": CoDeQConfig(axis=-1, level_grid="uniform"),
    "blocks": CoDeQConfig(sparsity_block=2),
    "pattern": CoDeQConfig(sparsity_pattern="2:4"),
    "learned": CoDeQConfig(bit_width="learned"),
    "ternary": CoDeQConfig(bit_width=2),
}


def pruned(model, data, config=None):
    qmodel = codeq_keras.quantize_model(model, config)
    budget = CompressionBudget(sparsity=TARGET)
    compile_and_fit(qmodel, data, epochs=80, callbacks=[budget])
    return qmodel


def zeros(qmodel):
    return [kernel.sparsity for kernel in codeq_keras.report(qmodel).layers]


def codes(qmodel):
    weights = codeq_keras.quantized_weights(qmodel)
    return {path: weight.codes for path, weight in weights.items()}


# The first kernel has three input channels.
@pytest.mark.filterwarnings("ignore:`sparsity_pattern")
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_zeros_of_each_kernel_hold_without_a_budget(wide_cnn, data, config):
    qmodel = pruned(wide_cnn, data, config)
    reached = zeros(qmodel)
    bits = codeq_keras.report(qmodel).mean_bit_width

    compile_and_fit(
        qmodel, data, epochs=3, optimizer=keras.optimizers.Adam(1e-2)
    )

    # A weight or a block of the smallest kernel; uniform levels round others
    # to zero as the weights move.
    np.testing.assert_allclose(zeros(qmodel), reached, atol=0.03)
    assert codeq_keras.report(qmodel).sparsity == pytest.approx(
        TARGET, abs=5e-3
    )
    assert codeq_keras.report(qmodel).mean_bit_width == bits


@pytest.mark.parametrize("rate", [0.0, 1e-5, 1.0])
def test_zeros_hold_at_any_learning_rate(wide_cnn, data, rate):
    qmodel = pruned(wide_cnn, data)

    compile_and_fit(
        qmodel, data, epochs=3, optimizer=keras.optimizers.SGD(rate)
    )

    assert codeq_keras.report(qmodel).sparsity == pytest.approx(
        TARGET, abs=5e-3
    )


def test_zeros_hold_in_other_loops_and_after_loading(wide_cnn, data, tmp_path):
    pruned(wide_cnn, data).save(tmp_path / "model.keras")
    qmodel = keras.saving.load_model(tmp_path / "model.keras")

    for _ in range(13):
        qmodel.train_on_batch(*data)

    held = codeq_keras.report(qmodel)
    assert held.sparsity == pytest.approx(TARGET, abs=5e-3)
    assert held.held_sparsity == pytest.approx(TARGET, abs=5e-3)
    assert "until `release_budget()`" in str(held)


def test_file_of_an_epoch_under_a_budget_holds_its_zeros(
    wide_cnn, data, tmp_path
):
    files = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    qmodel = codeq_keras.quantize_model(wide_cnn)
    budget = CompressionBudget(sparsity=TARGET)
    compile_and_fit(qmodel, data, epochs=80, callbacks=[budget, files])
    early = keras.saving.load_model(tmp_path / "50.keras")
    reached = codeq_keras.report(early).sparsity

    early.fit(*data, batch_size=16, epochs=5, verbose=0)

    assert reached > 0.5
    assert codeq_keras.report(early).sparsity == pytest.approx(
        reached, abs=5e-3
    )


def test_training_that_is_taken_up_again_goes_on_to_the_budget(
    wide_cnn, data, tmp_path
):
    def fit(*callbacks):
        qmodel = codeq_keras.quantize_model(wide_cnn)
        budget = CompressionBudget(sparsity=TARGET)
        backup = keras.callbacks.BackupAndRestore(tmp_path)
        compile_and_fit(
            qmodel, data, epochs=80, callbacks=[budget, backup, *callbacks]
        )
        return qmodel

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 30:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(Interrupt())
    qmodel = fit()

    assert codeq_keras.report(qmodel).sparsity == pytest.approx(
        TARGET, abs=5e-3
    )


def test_released_zeros_move_again(wide_cnn, data):
    qmodel = pruned(wide_cnn, data)
    qmodel.release_budget()

    compile_and_fit(qmodel, data, epochs=20)

    assert codeq_keras.report(qmodel).held_sparsity is None
    # The task alone prefers a narrower dead zone.
    assert codeq_keras.report(qmodel).sparsity < TARGET - 0.05


def test_another_budget_replaces_what_is_held(wide_cnn, data):
    qmodel = pruned(wide_cnn, data)

    compile_and_fit(
        qmodel, data, epochs=80, callbacks=[CompressionBudget(sparsity=0.5)]
    )

    assert codeq_keras.report(qmodel).held_sparsity == pytest.approx(
        0.5, abs=5e-3
    )


def test_interrupted_budget_holds_what_it_reached(wide_cnn, data):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 50:
                raise KeyboardInterrupt

    qmodel = codeq_keras.quantize_model(wide_cnn)
    with pytest.raises(KeyboardInterrupt):
        compile_and_fit(
            qmodel,
            data,
            epochs=80,
            callbacks=[CompressionBudget(sparsity=TARGET), Interrupt()],
        )
    reached = codeq_keras.report(qmodel).sparsity

    compile_and_fit(qmodel, data, epochs=3)

    assert codeq_keras.report(qmodel).sparsity == pytest.approx(
        reached, abs=5e-3
    )


# --- Layers that are not trainable -------------------------------------------


@pytest.mark.parametrize("grid", ["dead_zone", "uniform", "paper"])
def test_frozen_layer_keeps_its_values(wide_cnn, data, grid):
    wide_cnn.layers[1].trainable = False
    qmodel = codeq_keras.quantize_model(
        wide_cnn,
        CoDeQConfig(level_grid=grid, bit_width=3),
        regularizer=codeq_keras.CompressionRegularizer(dead_zone_penalty=0.1),
    )
    before = [np.array(kernel.values()) for kernel in qmodel.kernels]

    compile_and_fit(qmodel, data, epochs=10)

    after = [np.array(kernel.values()) for kernel in qmodel.kernels]
    kept = [np.array_equal(*pair) for pair in zip(before, after, strict=True)]
    assert kept == [False, True, False]


def test_budget_counts_a_frozen_layer_as_fixed(wide_cnn, data):
    wide_cnn.layers[0].trainable = False
    qmodel = codeq_keras.quantize_model(wide_cnn)
    before = codes(qmodel)

    compile_and_fit(
        qmodel,
        data,
        epochs=80,
        callbacks=[CompressionBudget(sparsity=TARGET)],
    )

    [frozen, *_] = codeq_keras.report(qmodel).layers
    np.testing.assert_array_equal(
        codes(qmodel)[frozen.path], before[frozen.path]
    )
    assert frozen.is_frozen
    assert "frozen" in str(codeq_keras.report(qmodel))
    assert codeq_keras.report(qmodel).sparsity == pytest.approx(
        TARGET, abs=5e-3
    )


def test_budget_that_frozen_layers_make_impossible_says_so(wide_cnn, data):
    wide_cnn.layers[1].trainable = False
    qmodel = codeq_keras.quantize_model(wide_cnn)

    with pytest.raises(ValueError, match="Kernels in float or frozen"):
        compile_and_fit(
            qmodel, data, callbacks=[CompressionBudget(sparsity=TARGET)]
        )


@pytest.mark.filterwarnings("ignore:The model does not have any trainable")
def test_model_frozen_after_a_budget_keeps_its_codes(wide_cnn, data):
    qmodel = pruned(wide_cnn, data)
    qmodel.trainable = False
    before = codes(qmodel)

    compile_and_fit(qmodel, data, epochs=3)

    after = codes(qmodel)
    for path, expected in before.items():
        np.testing.assert_array_equal(after[path], expected)


def test_budget_on_a_frozen_model_is_refused(wide_cnn, data):
    wide_cnn.trainable = False

    with pytest.raises(ValueError, match="frozen kernels stay"):
        compile_and_fit(
            codeq_keras.quantize_model(wide_cnn),
            data,
            callbacks=[CompressionBudget(sparsity=TARGET)],
        )
