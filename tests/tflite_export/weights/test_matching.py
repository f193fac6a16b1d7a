"""Kernels are found by content, whatever the arrangement and the gains."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tflite_export.weights.matching import (
    as_rows,
    fit_kernel,
    fit_rows,
    from_rows,
    match_slots,
)
from tflite_export.weights.records import Slot
from tflite_export.weights.resemblance import holds_input_gain, resemblance


def as_converted(codes, order, axis, gains):
    """What the converter makes of a kernel: folded, rounded per channel."""
    arranged = codes.transpose(order).astype(np.float64)
    rows = as_rows(arranged, axis) * np.reshape(gains, (-1, 1))
    peaks = np.abs(rows).max(axis=1, keepdims=True)
    rounded = np.round(127 * rows / np.where(peaks == 0, 1, peaks))
    return from_rows(rounded.astype(np.int8), axis, arranged.shape)


def test_hand_worked_dense_kernel_is_found():
    # Keras: 3 inputs, 2 outputs. Gains 0.5 and -2 of a BatchNormalization.
    codes = np.array([[4, 0], [-2, 3], [1, -1]], np.int8)
    # 127 * (4, -2, 1) / 4 = (127, -63.5, 31.75);
    # -127 * (0, 3, -1) / 3 = (0, -127, 42.33).
    held = np.array([[127, -64, 32], [0, -127, 42]], np.int8)

    match = match_slots(
        [Slot("FULLY_CONNECTED", held, 0)], {"dense/kernel": codes}
    )[0]

    assert match.path == "dense/kernel"
    assert match.codes.tolist() == [[4, -2, 1], [0, -3, 1]]
    # Least squares: (4 * 127 + 2 * 64 + 32) / 21 and (3 * 127 + 42) / 10.
    assert match.gains == pytest.approx([668 / 21, 423 / 10])


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_kernel_is_found_under_any_axis_order_and_gains(data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    shape = data.draw(
        st.lists(st.integers(1, 5), min_size=2, max_size=4).filter(
            lambda sizes: np.prod(sizes) > 1
        )
    )
    order = data.draw(st.permutations(range(len(shape))))
    axis = data.draw(st.integers(0, len(shape) - 1))
    max_code = data.draw(st.sampled_from([1, 3, 7, 127]))
    codes = rng.integers(-max_code, max_code + 1, shape).astype(np.int8)
    num_rows = shape[order[axis]]
    gains = rng.uniform(1e-3, 10, num_rows) * rng.choice([-1, 1], num_rows)
    held = as_converted(codes, order, axis, gains)

    match = match_slots([Slot("CONV_2D", held, axis)], {"k": codes})[0]

    assert match is not None
    # Another order of the axes may fit as well, but never as other integers:
    # scaled to the channel's peak they are what the file holds.
    again = as_converted(
        match.codes, range(len(shape)), axis, np.ones(num_rows)
    )
    assert np.abs(again.astype(int) - held).max() <= 1
    assert sorted(np.abs(match.codes).ravel()) == sorted(np.abs(codes).ravel())


def test_right_kernel_is_chosen_among_many_of_one_shape(rng):
    kernels = {
        f"{i}/kernel": rng.integers(-7, 8, (3, 3, 4, 8)).astype(np.int8)
        for i in range(6)
    }
    gains = rng.uniform(0.1, 3, 8)
    slots = [
        Slot("CONV_2D", as_converted(k, (3, 0, 1, 2), 0, gains), 0)
        for k in reversed(kernels.values())
    ]

    matches = match_slots(slots, kernels)

    assert [m.path for m in matches] == list(reversed(kernels))


def test_depthwise_multiplier_merges_the_last_two_axes(rng):
    codes = rng.integers(-7, 8, (3, 3, 4, 2)).astype(np.int8)
    held = as_converted(codes.reshape(1, 3, 3, 8), range(4), 3, np.ones(8))

    match = match_slots([Slot("DEPTHWISE_CONV_2D", held, 3)], {"k": codes})[0]

    assert np.array_equal(match.codes, codes.reshape(1, 3, 3, 8))


def test_equal_kernels_are_given_out_in_order(rng):
    codes = rng.integers(-7, 8, (4, 8)).astype(np.int8)
    slot = Slot(
        "FULLY_CONNECTED", as_converted(codes, (1, 0), 0, np.ones(8)), 0
    )

    matches = match_slots([slot, slot], {"a": codes, "b": codes.copy()})

    assert [m.path for m in matches] == ["a", "b"]


def test_kernels_of_one_weight_a_channel_are_given_out_by_operator():
    # All of them are 127 in the file; a pointwise one fits both operators.
    pointwise = np.array([3, 5, 7, 2], np.int8).reshape(1, 1, 1, 4)
    depthwise = np.array([1, 6, 4, 7], np.int8).reshape(1, 1, 4, 1)
    full = np.full(4, 127, np.int8)
    slots = [
        Slot("DEPTHWISE_CONV_2D", full.reshape(1, 1, 1, 4), 3),
        Slot("CONV_2D", full.reshape(4, 1, 1, 1), 0),
    ]

    matches = match_slots(slots, {"pw": pointwise, "dw": depthwise})

    assert [m.path for m in matches] == ["dw", "pw"]


def test_kernel_used_twice_is_found_twice(rng):
    codes = rng.integers(-7, 8, (4, 8)).astype(np.int8)
    slots = [
        Slot("FULLY_CONNECTED", as_converted(codes, (1, 0), 0, gains), 0)
        for gains in (np.ones(8), rng.uniform(0.5, 2, 8))
    ]

    assert [m.path for m in match_slots(slots, {"a": codes})] == ["a", "a"]


def test_all_zero_kernel_is_found():
    zeros = np.zeros((3, 3, 2, 4), np.int8)

    match = match_slots(
        [Slot("CONV_2D", zeros.transpose(3, 0, 1, 2), 0)], {"k": zeros}
    )[0]

    assert match.path == "k"
    assert match.gains.tolist() == [0, 0, 0, 0]


def test_channel_without_gain_is_silent(rng):
    codes = rng.integers(1, 8, (5, 3)).astype(np.int8)
    held = as_converted(codes, (1, 0), 0, [1.0, 0.0, 2.0])

    match = match_slots([Slot("FULLY_CONNECTED", held, 0)], {"k": codes})[0]

    assert match.num_silent_rows == 1
    assert np.isnan(match.gains).tolist() == [False, True, False]


def test_channel_with_a_floored_scale_is_found(rng):
    codes = rng.integers(-7, 8, (3, 3, 16, 4)).astype(np.int8)
    arranged = codes.transpose(3, 0, 1, 2)
    # The converter keeps scales above 4e-9; tiny gains then use few integers.
    held = np.round(arranged * 2.9).astype(np.int8)

    match = match_slots([Slot("CONV_2D", held, 0)], {"k": codes})[0]

    assert np.array_equal(match.codes, arranged)
    # 2.9 * 5 and the others round by up to 0.5 of 20 (7 * 2.9).
    assert match.gains == pytest.approx(2.9, rel=0.5 / 20)


def test_other_kernel_of_the_same_shape_is_no_match(rng):
    codes, other = rng.integers(-7, 8, (2, 6, 8)).astype(np.int8)
    held = as_converted(codes, (1, 0), 0, np.ones(8))

    slot = Slot("FULLY_CONNECTED", held, 0)

    assert fit_kernel(slot, "other", other) is None
    assert resemblance(slot, other) < 0.6
    assert resemblance(slot, codes) > 0.99


def test_weight_where_the_codes_are_zero_is_no_match():
    assert fit_rows(np.array([[127, 1]]), np.array([[3, 0]]))[0] is None


def test_gain_of_the_input_channels_is_recognized(rng):
    codes = rng.integers(-7, 8, (16, 10)).astype(np.int8)
    # Of both signs, as the gammas of a BatchNormalization are.
    gains = rng.uniform(0.5, 2, (16, 1)) * rng.choice([-1, 1], (16, 1))
    held = as_converted(codes * gains, (1, 0), 0, np.ones(10))
    slot = Slot("FULLY_CONNECTED", held, 0)

    assert fit_kernel(slot, "k", codes) is None
    assert holds_input_gain(slot, codes)
    assert not holds_input_gain(slot, np.roll(codes, 1, axis=0))


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_from_rows_inverts_as_rows(axis):
    values = np.arange(24).reshape(2, 3, 4)

    rows = as_rows(values, axis)

    assert np.array_equal(from_rows(rows, axis, values.shape), values)
