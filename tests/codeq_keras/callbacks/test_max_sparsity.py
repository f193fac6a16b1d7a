"""`CompressionBudget(max_sparsity=)`: no kernel is emptied for a budget."""

import keras
import pytest
from support.training import compile_and_fit

import codeq_keras
from codeq_keras import CompressionBudget

# 4 steps an epoch: as many as a budget needs.
EPOCHS = 80

TARGET = 0.9
LIMIT = 0.92


def fit_to_budget(model, data, **limit):
    qmodel = codeq_keras.quantize_model(model)
    compile_and_fit(
        qmodel,
        data,
        epochs=EPOCHS,
        callbacks=[CompressionBudget(sparsity=TARGET, **limit)],
    )
    return codeq_keras.report(qmodel)


def test_budget_is_met_without_emptying_a_kernel(wide_cnn, data):
    free = fit_to_budget(wide_cnn, data)
    limited = fit_to_budget(wide_cnn, data, max_sparsity=LIMIT)

    # Otherwise the limit has nothing to do here.
    assert max(kernel.sparsity for kernel in free.layers) > LIMIT + 5e-3
    assert max(kernel.sparsity for kernel in limited.layers) <= LIMIT + 5e-3
    # Half a point: what a sparsity budget promises.
    assert limited.sparsity == pytest.approx(TARGET, abs=5e-3)


def penalty_of(qmodel, **settings):
    qmodel.regularizer.set_budget("sparsity", **settings)
    return float(qmodel.regularizer.penalty(qmodel.kernels, progress=1.0))


def test_budget_does_not_see_what_a_kernel_lacks(cnn):
    qmodel = codeq_keras.quantize_model(cnn)
    for kernel in qmodel.kernels:
        kernel.quantizer.assign_logits(dead_zone=0.3)
    sparsest = codeq_keras.report(qmodel).sparsity

    pushed = penalty_of(qmodel, target=0.5, min_densities=(0.5, 0.5, 0.5))

    # Each kernel counts as half dense: what is left is to push them back,
    # 100 * ln(0.5 / density) ** 2 each.
    assert sparsest > 0.6
    assert pushed > 100 * keras.ops.log(0.5 / 0.4) ** 2


def test_kernels_without_a_rule_are_not_limited(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn)
    budget = CompressionBudget(sparsity=0.9, max_sparsity={"head": 0.5})

    with pytest.warns(UserWarning, match="was missed"):
        compile_and_fit(qmodel, data, callbacks=[budget, Spy()])

    assert Spy.seen == (0.0, 0.0, 0.5)


class Spy(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        Spy.seen = self.model.regularizer.min_densities


def test_budget_out_of_reach_says_the_nearest_value(cnn, data):
    qmodel = codeq_keras.quantize_model(
        cnn, codeq_keras.CoDeQConfig(bit_width="learned", min_bit_width=4)
    )
    budget = CompressionBudget(relative_bops=0.01, max_sparsity=0.5)

    # Half of the weights at the fewest bits, of 32.
    reason = f"`max_sparsity` allows it would be {0.5 * 4 / 32}"
    with pytest.warns(UserWarning, match=reason):
        compile_and_fit(qmodel, data, callbacks=[budget])


def test_zeros_beyond_the_limit_are_warned_of(cnn, data):
    # 3 uniform bits round many weights to zero without any pruning.
    qmodel = codeq_keras.quantize_model(
        cnn, codeq_keras.CoDeQConfig(bit_width=3, level_grid="uniform")
    )
    budget = CompressionBudget(relative_bops=0.09, max_sparsity=0.01)

    with pytest.warns(UserWarning, match=r"max_sparsity=0.01` was exceeded"):
        compile_and_fit(qmodel, data, callbacks=[budget])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_sparsity": 0}, r"must be in \(0, 1\)"),
        ({"max_sparsity": {"head": 1.5}}, r"Received: max_sparsity=\{'head'"),
        ({"max_sparsity": 0.8}, "Received: sparsity=0.9, max_sparsity=0.8"),
    ],
)
def test_contradictory_limits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CompressionBudget(sparsity=0.9, **arguments)


def test_rule_that_matches_nothing_is_refused(cnn, data):
    budget = CompressionBudget(sparsity=0.5, max_sparsity={"stem": 0.9})

    with pytest.raises(ValueError, match="Every key of `max_sparsity`"):
        compile_and_fit(
            codeq_keras.quantize_model(cnn), data, callbacks=[budget]
        )
