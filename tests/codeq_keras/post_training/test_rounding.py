"""The two steps of the rounding, against closed forms."""

import numpy as np
import pytest

from codeq_keras.post_training.pruning import threshold_for
from codeq_keras.post_training.rounding import (
    inverse_factor,
    refit,
    round_in_order,
)


@pytest.fixture
def problem():
    """Rows and a Hessian of correlated inputs, two groups."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(2, 100, 100)) * np.linspace(0.2, 2, 100)
    x = np.einsum("gpc,gcd->gpd", rng.normal(size=(2, 500, 100)), mix)
    hessian = np.einsum("gpc,gpd->gcd", x, x) / 500 + 2 * np.eye(100)
    rows = rng.normal(size=(2, 7, 100))
    return rows.astype("float32"), hessian.astype("float32")


def loss(rows, found, hessian):
    lost = rows - found
    return np.einsum("grc,gcd,grd->gr", lost, hessian, lost)


def test_refit_is_the_least_squares_solution(problem):
    rows, hessian = problem
    kept = np.random.default_rng(1).random(rows.shape) < 0.4
    found = refit(rows, hessian, kept)
    assert np.all(found[~kept] == 0)
    for group, row in np.ndindex(2, 7):
        chosen = kept[group, row]
        right = hessian[group][chosen] @ rows[group, row]
        exact = np.linalg.solve(hessian[group][np.ix_(chosen, chosen)], right)
        best = np.zeros(100)
        best[chosen] = exact
        least = loss(rows, best, hessian)[group, row]
        # The iterations end within a thousandth of the least loss.
        assert loss(rows, found, hessian)[group, row] <= 1.001 * least


def test_refit_keeps_whole_rows(problem):
    rows, hessian = problem
    kept = np.ones(rows.shape, bool)
    np.testing.assert_array_equal(refit(rows, hessian, kept), rows)


def test_factor_is_that_of_the_inverse_in_the_order_of_the_inputs(problem):
    _, hessian = problem
    order, factor = inverse_factor(hessian)
    for group in range(2):
        diagonal = np.diag(hessian[group])[order[group]]
        assert np.all(np.diff(diagonal) <= 0)
        sorted_ = hessian[group][np.ix_(order[group], order[group])]
        inverse = factor[group].T @ factor[group]
        np.testing.assert_allclose(
            inverse @ sorted_, np.eye(100), atol=2e-3
        )  # Of float32, with a condition of some hundreds.


def test_columns_are_rounded_as_one_after_the_other(problem):
    """Against the update of Optimal Brain Compression, an inverse at a time."""
    rows, hessian = problem
    kept = np.random.default_rng(1).random(rows.shape) < 0.8
    order, factor = inverse_factor(hessian)
    found = round_in_order(rows, order, factor, kept, np.round)
    for group, row in np.ndindex(2, 7):
        inverse = np.linalg.inv(hessian[group].astype("float64"))
        exact = rows[group, row].astype("float64")
        for column in order[group]:
            value = np.round(exact[column]) * kept[group, row, column]
            error = (exact[column] - value) / inverse[column, column]
            exact = exact - error * inverse[column]
            exact[column] = value
            inverse = inverse - np.outer(
                inverse[:, column], inverse[column]
            ) / (inverse[column, column] or 1)
            inverse[column, column] = 1.0  # Rounded: not read again.
        same = np.mean(found[group, row] == np.round(exact))
        assert same >= 0.97  # A sum in float32 may fall on the other side.


def test_order_makes_up_for_errors(problem):
    rows, hessian = problem
    kept = np.ones(rows.shape, bool)
    order, factor = inverse_factor(hessian)
    found = round_in_order(rows, order, factor, kept, np.round)
    nearest = loss(rows, np.round(rows), hessian).sum()
    assert loss(rows, found, hessian).sum() < 0.7 * nearest


def test_threshold_is_the_least_that_meets():
    scores = [np.array([0.0, 1.0, 2.0]), np.array([4.0, np.inf])]

    def is_met(threshold):
        return sum(np.sum(s > threshold) for s in scores) <= 2

    threshold = threshold_for(scores, is_met)
    assert 2.0 <= threshold < 2.001
    assert threshold_for(scores, lambda t: True) == 0.0
