"""QuantizerState: what many quantizers share, and each alone."""

import numpy as np
import pytest
from keras import ops

import codeq_keras
from codeq_keras import CoDeQConfig, DeadZoneQuantizer
from codeq_keras.quantizers.apart import taken_apart
from codeq_keras.quantizers.state import QuantizerState

LEARNED = CoDeQConfig(bit_width="learned", axis=-1)


@pytest.mark.parametrize(("bit_width", "kinds"), [(4, 1), ("learned", 2)])
def test_logits_of_a_kind_are_one_variable_to_the_optimizer(
    cnn, bit_width, kinds
):
    qmodel = codeq_keras.quantize_model(cnn, CoDeQConfig(bit_width))

    added = len(qmodel.trainable_variables) - len(cnn.trainable_variables)

    assert added == kinds


def test_logits_of_a_config_of_its_own_are_apart(cnn):
    qmodel = codeq_keras.quantize_model(
        cnn, overrides={"head": CoDeQConfig(bit_width=3, axis=-1)}
    )

    qmodel.kernels[1].quantizer.assign_logits(dead_zone=0.5)

    logits = [float(k.quantizer.dead_zone_logit) for k in qmodel.kernels]
    assert logits == [3.0, 0.5, 3.0]
    assert [len(s.bound_shapes) for s in qmodel.states] == [2, 1]


def test_a_quantizer_alone_has_vectors_of_one():
    quantizer = DeadZoneQuantizer(LEARNED)
    quantizer.build((3, 5))

    shapes = {tuple(v.shape) for v in quantizer.trainable_variables}

    assert shapes == {(1,)}
    assert tuple(quantizer.state.bounds.shape) == (5,)


def test_grids_are_equal_taken_apart_and_one_by_one(rng):
    state = QuantizerState(LEARNED, [(1, 3), (), (1, 2)])
    bounds = [rng.uniform(0.1, 1, shape) for shape in state.bound_shapes]
    for index, bound in enumerate(bounds):
        state.hold_bound(index, bound.astype("float32"))
        state.assign_logit("dead_zone_logit", index, 0.5 + index)

    with taken_apart([state]):
        apart = [state.grid(index).tensors() for index in range(3)]

    for index, fields in enumerate(apart):
        np.testing.assert_allclose(state.bound(index), bounds[index], rtol=1e-6)
        for name, value in state.grid(index).tensors().items():
            np.testing.assert_array_equal(
                ops.convert_to_numpy(fields[name]), ops.convert_to_numpy(value)
            )


def test_state_is_copied_from_a_quantizer_alone(rng):
    source = DeadZoneQuantizer(LEARNED)
    source.build((3, 2))
    source.assign_logits(dead_zone=0.25, bit_width=1.5)
    source.update_abs_bound(rng.normal(size=(3, 2)).astype("float32"))
    state = QuantizerState(LEARNED, [(1, 4), (1, 2)])

    state.copy_from(1, source.state)

    assert float(state.dead_zone_logit.value[1]) == 0.25
    assert float(state.bit_width_logit.value[1]) == 1.5
    assert float(state.dead_zone_logit.value[0]) == 3.0
    np.testing.assert_array_equal(state.bound(1), source.abs_bound)


def test_quantizer_without_state_says_what_to_do():
    with pytest.raises(ValueError, match=r"build\(kernel.shape\)"):
        DeadZoneQuantizer().grid  # noqa: B018


def test_quantizer_takes_a_config_only():
    with pytest.raises(ValueError, match=r"`CoDeQConfig\(bit_width=4\)`"):
        DeadZoneQuantizer(4)
