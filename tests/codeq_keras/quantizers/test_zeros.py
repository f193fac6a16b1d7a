"""Zeros that a budget moves: in densities, not in widths of dead zones."""

import numpy as np
import pytest
from keras import ops
from support.training import compile_and_fit

import codeq_keras
from codeq_keras.callbacks.budget import CompressionBudget
from codeq_keras.quantizers.kernels import follow_held_zeros, move_zeros
from codeq_keras.quantizers.zeros import largest_magnitude, moved


def moved_densities(densities, logits, moves):
    zeros = 1 - ops.convert_to_tensor(densities, dtype="float32")
    found = moved(zeros, ops.convert_to_tensor(logits), ops.array(moves))
    return 1 - ops.convert_to_numpy(found)


def test_move_changes_a_density_by_a_factor():
    found = moved_densities([0.5, 0.2, 0.2], [1.0, 3.0, 0.1], [-0.1, 0.1, 0.0])

    expected = [0.5 * np.exp(-0.1), 0.2 * np.exp(0.1), 0.2]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_negative_logit_keeps_more_weights_the_more_negative_it_is():
    found = moved_densities([0.5, 0.5], [-1.0, 1.0], [-0.1, 0.1])

    np.testing.assert_allclose(found, [0.5 * np.exp(0.1)] * 2, rtol=1e-5)


def test_densities_end_at_one_and_never_at_nothing():
    found = moved_densities([0.9, 0.001], [1.0, 1.0], [9.0, -9.0])

    assert found[0] == 1
    assert found[1] == pytest.approx(1e-4, rel=1e-2)  # 1 - z in float32.


def test_largest_magnitude_is_the_edge_of_a_condition():
    edges = np.array([0.5, 3.9], "float32")

    found = largest_magnitude(lambda m: m <= edges, like=ops.ones(2))

    np.testing.assert_allclose(found, edges, atol=4 / 2**16)


@pytest.fixture
def qmodel(wide_cnn):
    qmodel = codeq_keras.quantize_model(wide_cnn)
    for kernel in qmodel.quantized_kernels:
        kernel.quantizer.assign_logits(dead_zone=0.5)
    return qmodel


def zeros(qmodel):
    return [k.deployed().sparsity for k in qmodel.quantized_kernels]


def test_zeros_do_not_drift_with_the_weights(qmodel, rng):
    before = zeros(qmodel)
    move_zeros(qmodel.kernels)
    for kernel in qmodel.quantized_kernels:
        variable = kernel.variable
        noise = 1 + rng.normal(size=variable.shape)
        variable.assign(variable * noise.astype("float32"))
    drifted = zeros(qmodel)

    follow_held_zeros(qmodel.kernels)

    assert np.max(np.abs(np.subtract(drifted, before))) > 0.05
    # A weight of the smallest kernel, of 54.
    np.testing.assert_allclose(zeros(qmodel), before, atol=0.02)


def test_zeros_that_move_are_not_reported_as_held(qmodel):
    move_zeros(qmodel.kernels)

    assert codeq_keras.report(qmodel).held_sparsity is None


def test_training_that_fails_under_a_budget_leaves_no_zeros_held(qmodel, data):
    class Failing(codeq_keras.CompressionLogger):
        def on_epoch_end(self, epoch, logs=None):
            raise RuntimeError("full disk")

    with pytest.raises(RuntimeError, match="full disk"):
        compile_and_fit(
            qmodel,
            data,
            epochs=1,
            callbacks=[CompressionBudget(sparsity=0.5), Failing()],
        )

    assert codeq_keras.report(qmodel).held_sparsity is None
    assert not any(state.moves_zeros for state in qmodel.states)
