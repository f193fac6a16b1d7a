"""balance: the pulls of task and budget keep their proportion."""

import numpy as np
import pytest
from keras import ops
from support.gradients import gradient

from codeq_keras.quantizers.balance import balance

LOGITS = np.array([1.0, -2.0, 0.5], "float32")
TASK = np.array([3.0, 0.0, 4.0], "float32")
BUDGET = np.array([0.1, -0.2, 0.0], "float32")


def pull(task, *, budget=BUDGET, scale=1.0):
    """The gradient that an optimizer gets of two linear losses."""

    def loss(logits):
        of_task, of_budget, unit = balance([logits[:2], logits[2:]])
        return scale * (
            ops.sum(ops.concatenate(of_task) * task)
            + ops.sum(ops.concatenate(of_budget) * budget)
            + unit
        )

    [result] = gradient(loss, LOGITS)
    return result


def test_values_are_the_logits():
    of_task, of_budget, unit = balance([LOGITS[:2], LOGITS[2:]])

    for copy in (of_task, of_budget):
        np.testing.assert_array_equal(np.concatenate(copy), LOGITS)
    assert float(unit) == 0


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1e8])
def test_pull_does_not_depend_on_the_size_of_the_task(size):
    # float32.
    np.testing.assert_allclose(pull(size * TASK), pull(TASK), rtol=1e-6)


def test_pull_follows_a_scaled_loss():
    np.testing.assert_allclose(
        pull(TASK, scale=2.0**15), 2.0**15 * pull(TASK), rtol=1e-6
    )


def test_task_alone_keeps_its_direction():
    alone = pull(TASK, budget=0 * BUDGET)

    np.testing.assert_allclose(alone / np.linalg.norm(alone), TASK / 5)


def test_budget_pulls_where_the_task_is_solved():
    alone = pull(0 * TASK)

    # By the square roots of its gradients, with their signs.
    expected = np.sign(BUDGET) * np.sqrt(np.abs(BUDGET))
    np.testing.assert_allclose(
        alone / np.linalg.norm(alone),
        expected / np.linalg.norm(expected),
        rtol=1e-6,
    )


def test_pull_of_a_budget_is_in_proportion_to_it():
    # So it vanishes where the budget is met.
    np.testing.assert_allclose(
        pull(0 * TASK, budget=4 * BUDGET), 4 * pull(0 * TASK), rtol=1e-6
    )
