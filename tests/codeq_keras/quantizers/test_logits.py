"""Logits move at one rate, whatever moves their probe."""

import numpy as np
import pytest

from codeq_keras.quantizers.logits import Logit


@pytest.mark.parametrize("move", [1e-8, 1e-3, 10.0])
def test_logit_moves_alike_at_any_learning_rate(move):
    logit = Logit(3.0)
    logit.build()

    for step in range(1, 11):
        logit.probe.assign(logit.probe - move)
        logit.advance(rate=0.1, step=step)

    # Ten moves of one rate each, up to the rounding of the probe.
    assert float(logit.value[0]) == pytest.approx(2.0, abs=1e-3)


def test_logit_rests_without_a_gradient():
    logit = Logit(3.0)
    logit.build()

    for step in range(5):
        logit.advance(rate=0.1, step=step)

    assert float(logit.value[0]) == 3.0


def test_a_logit_that_a_file_lacks_is_an_error_each_time():
    logit = Logit(3.0)
    logit.build()
    variables = {str(i): np.array(v) for i, v in enumerate(logit.variables)}
    logit.load_own_variables(variables)

    with pytest.raises(ValueError, match="expected 4 variables"):
        logit.load_own_variables({})


def test_a_logit_that_was_elsewhere_may_lack_its_own_place_once():
    logit = Logit(3.0)
    logit.build()
    variables = {str(i): np.array(v) for i, v in enumerate(logit.variables)}

    logit.load_elsewhere(variables)
    logit.load_own_variables({})

    with pytest.raises(ValueError, match="expected 4 variables"):
        logit.load_own_variables({})
