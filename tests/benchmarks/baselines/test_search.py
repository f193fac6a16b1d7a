"""The search for bits and densities keeps its limit, and gets better."""

import keras
import numpy as np
import pytest
from accuracy.methods import METHODS
from baselines import search
from harness.training import Training
from harness.workload import Splits, Workload
from support.stripes import stripes

import codeq_keras

BUDGET = 0.01


@pytest.fixture
def training() -> Training:
    """A training whose test split cannot be read."""
    workload = Workload(network, stripes, "", learning_rate=1e-2)
    split = Splits(stripes("train", 320), stripes("validation", 50), None)
    return Training(workload, split, epochs=2, seed=0)


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(16, 3, strides=2, name="first")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Conv2D(16, 3, use_bias=False, name="second")(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="dense")(x))


def space(**settings) -> search.Space:
    return search.Space(
        **{
            "macs": [1000, 4000, 500],
            "bit_widths": range(2, 9),
            "relative_bops": BUDGET,
            "rng": np.random.default_rng(0),
        }
        | settings
    )


def test_candidates_meet_the_limit_and_use_it_up():
    candidates = space()
    # Next to it, the smallest kernel could be a step denser at least.
    slack = 500 * 8 / (5500 * 32) * (2**0.25 - 1)
    for first in candidates.uniform():
        for candidate in (first, candidates.mutated(first)):
            cost = candidates.cost(candidate)
            assert BUDGET - slack < cost <= BUDGET


def test_cost_is_of_bits_and_what_is_left():
    half_of_4, quarter_of_8 = search.Choice(4, 4), search.Choice(8, 8)
    candidate = (half_of_4, quarter_of_8, quarter_of_8)
    assert space().cost(candidate) == pytest.approx(2 / 32)


def test_limit_below_all_candidates_is_refused():
    with pytest.raises(ValueError, match=r"Received: relative_bops=0\.0001"):
        list(space(relative_bops=1e-4).uniform())


def test_evolution_finds_what_the_loss_asks_for():
    wanted = np.array([2, 8, 4])

    def loss(candidate):
        bits = [choice.bit_width for choice in candidate]
        return float(np.abs(bits - wanted).sum())

    tried = search.evolve(space(), loss, 200)

    assert len(tried) == 200
    assert search.best(tried).loss == 0 < tried[0].loss


@pytest.mark.slow
def test_searched_network_is_better_than_the_first_and_within_the_budget(
    training, monkeypatch
):
    monkeypatch.setattr(search, "NUM_EVALUATIONS", 60)
    net = network()
    Training(training.workload, training.split, 10, 0).fit(net)

    outcome = METHODS["search"].compress(net, training, BUDGET)

    found = outcome.settings
    assert found["num_evaluations"] == 60
    assert found["best_loss"] < found["first_loss"]
    assert list(outcome.bit_widths) == found["bit_widths"]
    assert 0.9 * BUDGET < outcome.costs()["relative_bops"] <= BUDGET
    for value, density in zip(
        outcome.deployed, found["densities"], strict=True
    ):
        # Zeros are counted in whole weights.
        assert np.mean(value != 0) == pytest.approx(density, abs=1 / value.size)
    assert training.evaluate(outcome.model, "validation") > 0.8


def test_judge_tells_the_loss_of_the_rounded_network(training):
    x, y = training.split.train
    net, loss = network(), training.workload.goal.loss
    judge = search.Judge(net, training)
    dense = (search.Choice(8, 0),) * 3
    codeq_keras.reestimate_batch_norm(net, [x])
    expected = float(loss(y, net.predict(x, verbose=0)))

    found = judge(dense)
    sparse = judge((search.Choice(2, 12),) * 3)

    # 8 bits change a weight by 1/254 of the largest at most.
    assert found == pytest.approx(expected, rel=0.02)
    assert sparse != pytest.approx(expected, rel=0.02)
    assert judge(dense) == found
