"""supposed: other densities and bits for a while."""

import numpy as np
import pytest

import codeq_keras
from codeq_keras.costs import deployed_costs
from codeq_keras.quantizers.kernels import states_of
from codeq_keras.quantizers.supposed import restored, suppose
from codeq_keras.training.auto import set_bit_width


def test_supposed_densities_and_bits_are_gone_afterwards(wide_cnn):
    qmodel = codeq_keras.quantize_model(wide_cnn)
    kernels = qmodel.kernels
    before = [np.array(v) for s in states_of(kernels) for v in s.variables]

    with restored(kernels):
        set_bit_width(kernels, 3)
        suppose(kernels, [0.25] * len(kernels))
        found = deployed_costs(kernels)
    # A weight of the smallest kernel is some percent of it.
    assert [cost.density for cost in found] == pytest.approx(
        [0.25] * len(found), abs=0.06
    )
    assert {cost.bit_width for cost in found} == {3}

    after = [np.array(v) for s in states_of(kernels) for v in s.variables]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_frozen_kernels_keep_their_zeros(wide_cnn):
    wide_cnn.layers[0].trainable = False
    qmodel = codeq_keras.quantize_model(wide_cnn)
    before = deployed_costs(qmodel.kernels)[0].density

    with restored(qmodel.kernels):
        suppose(qmodel.kernels, [0.25] * len(qmodel.kernels))
        assert deployed_costs(qmodel.kernels)[0].density == before
