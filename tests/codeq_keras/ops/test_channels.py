"""The mathematics of channels, against NumPy and numbers by hand."""

import keras
import numpy as np
import pytest
from support.gradients import gradient

from codeq_keras.ops import channels

# Two classes: of 4 channels, and of 2 with padding.
ENERGIES = np.array([[4.0, 1.0, 0.0, 0.25], [0.09, 9.0, -1, -1]], "float32")
SHARES = np.array([[1.0, 0.5, 0.0, 0.25], [0.1, 1.0, -1, -1]], "float32")


def test_a_share_is_the_root_relative_to_the_largest():
    np.testing.assert_allclose(
        channels.relative_shares(ENERGIES), SHARES, rtol=1e-6
    )


def test_a_class_without_energy_has_shares_of_zero():
    shares = channels.relative_shares(np.zeros((1, 3), "float32"))

    np.testing.assert_array_equal(shares, np.zeros((1, 3)))


def test_ranks_are_the_places_of_the_largest_energies():
    np.testing.assert_array_equal(
        channels.channel_ranks(ENERGIES), [[0, 1, 3, 2], [1, 0, 2, 3]]
    )


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.0, 30), (0.04, 30), (0.2, 24), (0.5, 16), (0.61, 8), (1.2, 8)],
)
def test_counts_are_the_nearest_multiple_or_the_size(ratio, expected):
    counts = channels.counts_of(np.array([ratio], "float32"), 8, 8.0, 30.0)

    assert float(counts[0]) == expected


def test_counts_have_the_slope_of_the_sizes():
    ratios, sizes = np.array([0.3, 0.2], "float32"), np.array([4.0, 2.0], "f")
    counts, weights = np.array([4.0, 1.0], "f"), np.array([1.0, 10.0], "f")

    def total(ratios):
        counted = channels.with_gradient(counts, ratios, sizes)
        return keras.ops.sum(weights * counted)

    [slopes] = gradient(total, ratios)

    np.testing.assert_allclose(slopes, [-4, -20])
    assert float(total(ratios)) == 4 + 10 * 1


def test_a_gate_is_zero_or_one_and_removed_channels_pull_on_the_ratio():
    alive = np.array([[1.0, 1, 0, 0], [0, 1, 0, 0]], "float32")
    weights = np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]], "float32")
    ratios = np.array([0.3, 0.2], "float32")

    def total(ratios):
        return keras.ops.sum(
            weights * channels.gate_factors(alive, SHARES, ratios)
        )

    [slopes] = gradient(total, ratios)

    # -1 / share of the removed: 0.25 of the first row, where a share of 0
    # has no direction, and 0.1 of the second. Padding is no channel.
    np.testing.assert_allclose(slopes, [-4 / 0.25, -5 / 0.1], rtol=1e-6)
    assert float(total(ratios)) == 1 + 2 + 6


@pytest.mark.parametrize("least", [1e-3, 0.7, 30.0])
def test_the_least_factor_is_found(least):
    factor = float(channels.least_factor(lambda f: f >= least))

    # 20 / 2 ** 18 of a logarithm.
    assert least <= factor <= least * 1.0001


def test_counts_are_filled_where_most_are_wanted():
    sizes = np.array([4.0, 4.0], "float32")

    def filled(limit):
        return channels.filled_counts(
            np.array([1.0, 1.0], "float32"),
            np.array([1.4, 2.5], "float32"),
            np.ones(2, "float32"),
            sizes,
            lambda counts: keras.ops.sum(counts, axis=-1) <= limit,
        ).__array__()

    np.testing.assert_array_equal(filled(2), [1, 1])
    np.testing.assert_array_equal(filled(3), [1, 2])
    np.testing.assert_array_equal(filled(4), [1, 3])
    np.testing.assert_array_equal(filled(5), [2, 3])
    np.testing.assert_array_equal(filled(100), [4, 4])


def test_the_last_step_of_a_class_ends_at_its_size():
    counts = channels.filled_counts(
        np.array([8.0], "float32"),
        np.array([9.0], "float32"),
        np.array([8.0], "float32"),
        np.array([11.0], "float32"),
        lambda counts: counts[..., 0] <= 100,
    )

    assert float(counts[0]) == 11


def test_cheap_channels_are_filled_to_the_last():
    costs = np.array([1.0, 100.0], "float32")

    counts = channels.filled_counts(
        np.ones(2, "float32"),
        np.array([16.0, 16.0], "float32"),
        np.ones(2, "float32"),
        np.array([32.0, 32.0], "float32"),
        lambda counts: keras.ops.sum(counts * costs, axis=-1) <= 333,
    )

    np.testing.assert_array_equal(counts, [32, 3])
