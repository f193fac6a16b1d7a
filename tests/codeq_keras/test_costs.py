"""The paper's formulas, on numbers and on kernels."""

import keras
import numpy as np
import pytest

import codeq_keras
from codeq_keras import costs
from codeq_keras.costs import KernelCost

FLOAT = KernelCost(10, 1000, 1.0, 32, is_quantized=False, num_scales=0)


def test_relative_bops_weigh_by_multiply_accumulates():
    conv, head = KernelCost(10, 9000, 0.5, 4), KernelCost(90, 1000, 0.1, 8)

    # Eq. (20)-(22): sum of MACs times density times bits, over 32 of them.
    expected = (9000 * 0.5 * 4 + 1000 * 0.1 * 8 + 1000 * 32) / (11000 * 32)
    assert costs.relative_bops([conv, head, FLOAT]) == pytest.approx(expected)


def test_kernels_left_in_float_count_in_bytes_and_bops_only():
    quantized = KernelCost(90, 1000, 0.25, 4)

    assert costs.sparsity([quantized, FLOAT]) == 0.75
    assert costs.mean_bit_width([quantized, FLOAT]) == 4
    assert costs.bits_per_weight([quantized, FLOAT]) == 1
    alone = float(costs.size_bytes([quantized]))
    assert float(costs.size_bytes([quantized, FLOAT])) == alone + 4 * 10


def test_all_measures_fall_where_zeros_are_added():
    dense, sparse = KernelCost(90, 1000, 0.9, 4), KernelCost(90, 1000, 0.5, 4)

    for name, measure in costs.MEASURES.items():
        # Multiply-accumulates fall with channels alone.
        falls = float(measure([sparse])) < float(measure([dense]))
        assert falls == (name != "relative_macs")


def test_trained_and_deployed_costs_are_one_formula(cnn):
    qmodel = codeq_keras.quantize_model(cnn, overrides={"head": None})
    for kernel in qmodel.quantized_kernels:
        kernel.quantizer.assign_logits(dead_zone=0.5)

    trained = costs.trained_costs(qmodel.kernels)
    deployed = costs.deployed_costs(qmodel.kernels)

    for left, right in zip(trained, deployed, strict=True):
        assert left.bit_width == right.bit_width
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(left.density), right.density, rtol=1e-6
        )
