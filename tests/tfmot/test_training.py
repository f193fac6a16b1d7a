"""Budgets, logs and schedules in tf_keras's fit."""

import numpy as np
import pytest
from support.qat_models import compiled, images, layers, quantize, sequential

from codeq_keras import CoDeQConfig
from codeq_keras.tfmot import CompressionBudget, CompressionLogger, report
from codeq_keras.tfmot.weight_quantizer import kernel_states


def small(config=None):
    return compiled(
        quantize(
            sequential(
                layers.Conv2D(8, 3, name="c"),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Flatten(),
                layers.Dense(3, activation="softmax", name="head"),
            ),
            config,
        )
    )


@pytest.fixture(scope="module")
def budgeted():
    """A model trained to 80 % zeros with validation, and its history."""
    rng = np.random.default_rng(0)
    x, y = images(rng, 512)
    model = small(CoDeQConfig(bit_width=4))
    history = model.fit(
        x,
        y,
        batch_size=16,
        epochs=12,
        verbose=0,
        validation_data=(x, y),
        callbacks=[CompressionBudget(sparsity=0.8)],
    )
    return model, history.history, (x, y)


def test_budget_is_met_and_the_model_learns(budgeted):
    model, history, _ = budgeted

    assert report(model).sparsity == pytest.approx(0.8, abs=0.01)
    assert history["sparsity"][-1] == pytest.approx(0.8, abs=0.01)
    assert history["accuracy"][-1] > 0.95


def test_logs_hold_sparsity_bits_and_bops(budgeted):
    _, history, _ = budgeted

    assert history["mean_bit_width"] == [4.0] * 12
    assert 0 < history["relative_bops"][-1] < 4 / 32


def test_penalty_is_beside_the_loss(budgeted):
    _, history, _ = budgeted

    assert len(history["budget_penalty"]) == 12
    # The first epochs, in which the target falls; cross entropy is at most 1.
    assert max(history["budget_penalty"][:5]) > 0
    assert max(history["loss"]) < 1.5


def test_budget_is_met_for_a_large_loss(rng):
    x, y = images(rng, 512)
    model = small(CoDeQConfig(bit_width=4))
    model.compile("adam", model.loss, loss_weights=1e3)

    model.fit(
        x,
        y,
        batch_size=16,
        epochs=12,
        verbose=0,
        callbacks=[CompressionBudget(sparsity=0.8)],
    )

    assert report(model).sparsity == pytest.approx(0.8, abs=0.01)


def test_later_training_holds_the_zeros(budgeted):
    model, _, (x, y) = budgeted

    model.fit(x, y, batch_size=16, epochs=2, verbose=0)

    assert report(model).sparsity == pytest.approx(0.8, abs=0.01)
    assert report(model).held_sparsity == pytest.approx(0.8, abs=0.01)


def test_penalty_is_gone_after_training(budgeted):
    model, _, (x, y) = budgeted

    assert float(sum(model.losses)) == 0.0
    history = model.fit(x, y, batch_size=16, epochs=1, verbose=0)
    assert history.history["loss"][0] < 0.5


def test_no_kernel_is_emptied_for_a_budget(rng):
    x, y = images(rng, 512)
    model = small(CoDeQConfig(bit_width=4))
    budget = CompressionBudget(sparsity=0.35, max_sparsity={"head": 0.3})

    model.fit(x, y, batch_size=16, epochs=10, verbose=0, callbacks=[budget])

    sparsity = {k.path: k.sparsity for k in report(model).layers}
    # Half a point: what the limit promises. Fit warns of a missed budget.
    assert sparsity["head/kernel"] <= 0.305
    assert sparsity["c/kernel"] > 0.35


def test_relative_bops_budget_trades_bits_and_zeros(rng):
    x, y = images(rng, 512)
    model = small(CoDeQConfig(bit_width="learned"))

    model.fit(
        x,
        y,
        batch_size=16,
        epochs=12,
        verbose=0,
        callbacks=[CompressionBudget(relative_bops=0.05)],
    )

    result = report(model)
    assert result.relative_bops == pytest.approx(0.05, rel=0.03)
    assert result.mean_bit_width < 8


def test_missed_budget_warns(rng):
    x, y = images(rng, 32)
    budget = CompressionBudget(sparsity=0.9)

    with pytest.warns(UserWarning, match="was missed"):
        small().fit(x, y, epochs=1, verbose=0, callbacks=[budget])


def test_schedule_knows_the_length_of_the_training(rng):
    x, y = images(rng, 64)
    model = small()

    logger = CompressionLogger()
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[logger])

    for layer in model.layers:
        for state in kernel_states(layer):
            assert int(state.schedule.num_steps) == 3 * (64 // 16)
            assert float(state.schedule.progress()) == 1.0


def test_schedule_counts_steps_without_a_callback(rng):
    x, y = images(rng, 64)
    model = small()

    model.fit(x, y, batch_size=16, epochs=2, verbose=0)

    [state] = kernel_states(model.get_layer("quant_c"))
    assert int(state.schedule.step) == 2 * (64 // 16)


def test_evaluation_moves_nothing(rng):
    x, y = images(rng, 64)
    model = small()
    before = model.get_weights()

    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)

    np.testing.assert_equal(model.get_weights(), before)


def test_callback_refuses_a_model_without_codeq(rng):
    model = sequential(layers.Flatten(), layers.Dense(3, activation="softmax"))
    x, y = images(rng, 8)

    with pytest.raises(ValueError, match="scheme=CoDeQScheme"):
        compiled(model).fit(x, y, verbose=0, callbacks=[CompressionLogger()])


@pytest.mark.parametrize(
    "arguments",
    [{}, {"sparsity": 0.5, "relative_bops": 0.1}],
    ids=["none", "two"],
)
def test_exactly_one_budget_must_be_given(arguments):
    with pytest.raises(ValueError, match="Exactly one"):
        CompressionBudget(**arguments)


def test_next_fit_is_without_the_budget_that_was_missed(rng):
    x, y = images(rng, 64)
    model = small()
    with pytest.warns(UserWarning, match="was missed"):
        model.fit(
            x,
            y,
            epochs=1,
            verbose=0,
            callbacks=[CompressionBudget(sparsity=0.9)],
        )

    history = model.fit(x, y, epochs=1, verbose=0)

    # 100 * ln(0.6 / 0.1) ** 2 is 300; the cross entropy of 3 classes about 1.
    assert history.history["loss"][0] < 10
