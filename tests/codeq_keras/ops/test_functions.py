"""The quantizer's math against the published code and a NumPy oracle."""

import pathlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support import reference
from support.gradients import gradient

from codeq_keras import ops

GOLDEN = np.load(
    pathlib.Path(__file__).parents[2] / "golden" / "codeq_reference.npz"
)
CASES = sorted({key.split("/")[0] for key in GOLDEN.files})


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def relative_error(actual, expected):
    scale = np.max(np.abs(expected))
    difference = np.max(np.abs(np.asarray(actual) - expected))
    return difference / scale if scale else difference


# --- Against the published PyTorch quantizer --------------------------------


@pytest.mark.parametrize("case", CASES)
def test_paper_grid_equals_published_code(case):
    golden = {
        key.split("/")[1]: GOLDEN[key] for key in GOLDEN if key.startswith(case)
    }
    bound = ops.abs_bound(golden["w"])

    def forward(weights, dead_zone_logit, bit_width_logit):
        bit_width = float(golden["bits"])
        if bit_width < 0:
            bit_width = ops.bit_width_from_logit(
                bit_width_logit, min_bit_width=2, max_bit_width=8
            )
        return ops.fake_quantize(
            weights,
            abs_bound=bound,
            dead_zone_logit=dead_zone_logit,
            bit_width=bit_width,
            level_grid="paper",
        )

    arguments = (golden["w"], golden["theta_dz"], golden["theta_bit"])
    quantized = to_numpy(forward(*arguments))
    to_weights, to_dead_zone, to_bits = gradient(
        lambda *a: keras.ops.sum(forward(*a) * golden["upstream"]), *arguments
    )

    # float32 against float32, sums in a different order.
    assert relative_error(to_numpy(bound), golden["abs_bound"]) < 1e-5
    assert relative_error(quantized, golden["w_hat"]) < 1e-5
    assert relative_error(to_weights, golden["grad_w"]) < 1e-5
    # Sums of up to 8192 terms that cancel.
    assert relative_error(to_dead_zone, golden["grad_theta_dz"]) < 1e-4
    assert relative_error(to_bits, golden["grad_theta_bit"]) < 1e-4


# --- Against the float64 oracle ---------------------------------------------


@pytest.mark.parametrize("bit_width", [2, 3, 4, 8])
@pytest.mark.parametrize("logit", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("level_grid", ops.LEVEL_GRIDS)
def test_fake_quantize_equals_oracle(rng, level_grid, logit, bit_width):
    weights = rng.normal(size=(7, 11)).astype("float32")
    bound = float(ops.abs_bound(weights))

    actual = ops.fake_quantize(
        weights,
        abs_bound=bound,
        dead_zone_logit=logit,
        bit_width=bit_width,
        level_grid=level_grid,
    )

    expected = reference.fake_quantize(
        weights, bound, logit, bit_width, level_grid
    )
    # A weight within float32 rounding of a threshold may fall on either side.
    is_near = np.isclose(to_numpy(actual), expected, rtol=1e-5, atol=1e-7)
    assert is_near.mean() > 0.98


@pytest.mark.parametrize("bit_width", [2, 4, 8])
@pytest.mark.parametrize("logit", [-0.8, 0.4, 2.0])
@pytest.mark.parametrize("level_grid", ops.LEVEL_GRIDS)
def test_gradient_equals_closed_form(rng, level_grid, logit, bit_width):
    weights = rng.normal(size=(40,)).astype("float32")
    upstream = rng.normal(size=(40,)).astype("float32")

    def loss(weights, logit, bit_width):
        quantized = ops.fake_quantize(
            weights,
            abs_bound=1.5,
            dead_zone_logit=logit,
            bit_width=bit_width,
            level_grid=level_grid,
        )
        return keras.ops.sum(quantized * upstream)

    actual = gradient(loss, weights, np.float32(logit), np.float32(bit_width))

    expected = reference.gradients(weights, upstream, 1.5, logit, bit_width)
    for result, closed_form in zip(actual, expected, strict=True):
        assert relative_error(result, closed_form) < 1e-4  # float32 sums


def test_gradient_reaches_pruned_and_saturated_weights():
    weights = np.array([0.01, 5.0, -5.0], "float32")

    [to_weights] = gradient(
        lambda w: keras.ops.sum(
            ops.fake_quantize(
                w, abs_bound=1.0, dead_zone_logit=0.5, bit_width=4
            )
        ),
        weights,
    )

    np.testing.assert_array_equal(to_weights, 1.0)


@pytest.mark.parametrize(
    ("level_grid", "expected"), [("paper", 0), ("dead_zone", 1), ("uniform", 1)]
)
def test_exact_zero_weight_gets_no_gradient_on_paper_grid_only(
    level_grid, expected
):
    [to_weights] = gradient(
        lambda w: keras.ops.sum(
            ops.fake_quantize(
                w,
                abs_bound=1.0,
                dead_zone_logit=1.0,
                bit_width=4,
                level_grid=level_grid,
            )
        ),
        np.zeros(3, "float32"),
    )

    np.testing.assert_array_equal(to_weights, expected)


def test_abs_bound_has_no_gradient(rng):
    weights = rng.normal(size=(50,)).astype("float32")

    [to_weights] = gradient(lambda w: keras.ops.sum(ops.abs_bound(w)), weights)

    np.testing.assert_array_equal(to_weights, 0)


# --- Properties -------------------------------------------------------------

weight_arrays = hnp.arrays(
    "float32",
    hnp.array_shapes(max_dims=3, max_side=8),
    elements=st.floats(-4, 4, width=32),
)
logits = st.floats(0.05, 4.0)
bit_widths = st.integers(2, 8)
exact_grids = st.sampled_from(["dead_zone", "uniform"])
all_grids = st.sampled_from(ops.LEVEL_GRIDS)


def quantizer_arguments(weights, logit, bit_width, level_grid):
    return {
        "abs_bound": ops.abs_bound(weights),
        "dead_zone_logit": logit,
        "bit_width": bit_width,
        "level_grid": level_grid,
    }


@settings(max_examples=40, deadline=None)
@given(weight_arrays, logits, bit_widths, exact_grids)
def test_fake_quantize_equals_codes_times_scale_bit_for_bit(
    weights, logit, bit_width, level_grid
):
    arguments = quantizer_arguments(weights, logit, bit_width, level_grid)

    fake_quantized = ops.fake_quantize(weights, **arguments)
    codes, scale = ops.quantize(weights, **arguments)

    np.testing.assert_array_equal(
        to_numpy(fake_quantized), to_numpy(ops.dequantize(codes, scale))
    )
    largest = 127 if level_grid == "dead_zone" else 2 ** (bit_width - 1) - 1
    assert np.abs(to_numpy(codes)).max() <= largest
    np.testing.assert_array_equal(to_numpy(codes), np.rint(to_numpy(codes)))


@settings(max_examples=25, deadline=None)
@given(weight_arrays, logits, bit_widths, all_grids)
def test_fake_quantize_is_odd_and_monotone(
    weights, logit, bit_width, level_grid
):
    arguments = quantizer_arguments(weights, logit, bit_width, level_grid)

    values = to_numpy(ops.fake_quantize(weights, **arguments)).ravel()
    mirrored = to_numpy(ops.fake_quantize(-weights, **arguments)).ravel()

    np.testing.assert_array_equal(values, -mirrored)
    order = np.argsort(weights.ravel(), kind="stable")
    assert np.all(np.diff(values[order]) >= 0)


@settings(max_examples=25, deadline=None)
@given(weight_arrays, logits, bit_widths, all_grids)
def test_fake_quantize_is_zero_inside_dead_zone_with_few_levels(
    weights, logit, bit_width, level_grid
):
    arguments = quantizer_arguments(weights, logit, bit_width, level_grid)
    width = float(ops.dead_zone_width(logit, abs_bound=arguments["abs_bound"]))

    values = to_numpy(ops.fake_quantize(weights, **arguments))

    # 1 - 1e-5: the threshold itself is subject to float32 rounding.
    inside = np.abs(weights) < width / 2 * (1 - 1e-5)
    assert np.all(values[inside] == 0)
    max_code = 2 ** (bit_width - 1) - 1
    assert len(np.unique(values)) <= 2 * max_code + 1


@pytest.mark.parametrize("level_grid", ops.LEVEL_GRIDS)
def test_zero_fraction_counts_the_zeros_of_fake_quantize(rng, level_grid):
    weights = rng.normal(size=(1000,)).astype("float32")
    arguments = quantizer_arguments(weights, 0.8, 4, level_grid)

    fraction = float(ops.zero_fraction(weights, **arguments))

    values = to_numpy(ops.fake_quantize(weights, **arguments))
    assert fraction == pytest.approx(np.mean(values == 0))


@pytest.mark.parametrize("level_grid", ops.LEVEL_GRIDS)
def test_zero_fraction_gradient_goes_to_logit_and_not_to_weights(
    rng, level_grid
):
    weights = rng.normal(size=(1000,)).astype("float32")

    to_weights, to_logit = gradient(
        lambda w, logit: ops.zero_fraction(
            w,
            abs_bound=2.5,
            dead_zone_logit=logit,
            bit_width=4,
            level_grid=level_grid,
        ),
        weights,
        np.float32(3.0),
    )

    np.testing.assert_array_equal(to_weights, 0)
    assert to_logit < 0  # A smaller logit prunes more.


def test_two_bits_use_the_mean_kept_magnitude():
    weights = np.array([-3.0, -1.0, 0.1, 1.0, 3.0], "float32")

    codes, scale = ops.quantize(
        weights, abs_bound=3.0, dead_zone_logit=1.5, bit_width=2
    )

    np.testing.assert_array_equal(to_numpy(codes), [-1, -1, 0, 1, 1])
    assert float(scale) == pytest.approx((3 + 1 + 1 + 3) / 4)


def test_all_zero_weights_stay_zero_and_finite():
    weights = np.zeros((3, 3), "float32")

    for level_grid in ops.LEVEL_GRIDS:
        arguments = quantizer_arguments(weights, 1.0, 4, level_grid)
        values = to_numpy(ops.fake_quantize(weights, **arguments))
        np.testing.assert_array_equal(values, 0)


@pytest.mark.parametrize("range_quantile", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("axis", [None, -1, (0, 2)])
def test_abs_bound_equals_numpy_quantile(rng, axis, range_quantile):
    weights = rng.normal(size=(5, 6, 7)).astype("float32")

    bound = to_numpy(
        ops.abs_bound(weights, range_quantile=range_quantile, axis=axis)
    )

    reduced = {None: None, -1: (0, 1), (0, 2): (1,)}[axis]
    expected = np.quantile(
        np.abs(weights), range_quantile, axis=reduced, keepdims=axis is not None
    )
    # float32 interpolation against float64.
    np.testing.assert_allclose(bound, expected, rtol=1e-6)


def test_bit_width_from_logit_rounds_and_passes_the_gradient():
    [to_logit] = gradient(
        lambda t: ops.bit_width_from_logit(t, min_bit_width=2, max_bit_width=8),
        np.float32(0.5),
    )

    assert to_logit == pytest.approx(6 / np.cosh(0.5) ** 2, rel=1e-5)


# --- Errors -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.abs_bound([1.0], range_quantile=0), "range_quantile=0"),
        (
            lambda: ops.bit_width_from_logit(
                0.0, min_bit_width=4, max_bit_width=3
            ),
            "min_bit_width=4, max_bit_width=3",
        ),
        (
            lambda: ops.bit_width_from_logit(
                0.0, min_bit_width="3", max_bit_width=4
            ),
            "Received: min_bit_width='3'",
        ),
        (
            lambda: ops.fake_quantize(
                [1.0],
                abs_bound=1.0,
                dead_zone_logit=1.0,
                bit_width=4,
                level_grid="log",
            ),
            "Received: level_grid='log'",
        ),
        (
            lambda: ops.fake_quantize(
                [1.0], abs_bound=1.0, dead_zone_logit=1.0, bit_width=9
            ),
            "Received: bit_width=9",
        ),
        (
            lambda: ops.fake_quantize(
                [1.0], abs_bound=1.0, dead_zone_logit=1.0, bit_width="4"
            ),
            "must be a number .* Received: bit_width='4'",
        ),
        (
            lambda: ops.quantize(
                [1.0],
                abs_bound=1.0,
                dead_zone_logit=1.0,
                bit_width=4,
                level_grid="paper",
            ),
            "Train with 'dead_zone'",
        ),
    ],
    ids=[
        "range_quantile",
        "bit widths",
        "text for bits",
        "level_grid",
        "bit_width",
        "text",
        "paper",
    ],
)
def test_bad_argument_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


BLOCK = {"abs_bound": 1.0, "dead_zone_logit": 0.6, "bit_width": 3}


def _block_rms(weights, block):
    # One row per output channel block; the last may be cut off.
    out = np.empty_like(weights)
    for start in range(0, weights.shape[-1], block):
        part = weights[..., start : start + block]
        rms = np.sqrt(np.mean(part**2, axis=-1, keepdims=True))
        out[..., start : start + block] = rms
    return out


@pytest.mark.parametrize("level_grid", ["dead_zone", "uniform"])
@pytest.mark.parametrize("block", [2, 4])
def test_blocks_of_output_channels_are_pruned_together(rng, level_grid, block):
    weights = rng.normal(scale=0.5, size=(3, 5, 6)).astype("float32")
    codes, scale = ops.quantize(
        weights, **BLOCK, level_grid=level_grid, sparsity_block=block
    )
    codes = keras.ops.convert_to_numpy(codes)
    threshold = float(ops.dead_zone_width(0.6, abs_bound=1.0)) / 2
    pruned = _block_rms(weights, block) <= threshold

    assert 0.2 < pruned.mean() < 0.8
    np.testing.assert_array_equal(codes[pruned], 0)
    # A kept weight takes its nearest level: no level is closer to it.
    levels = np.unique(codes) * float(scale)
    kept = np.clip(weights[~pruned], -1.0, 1.0)
    nearest = np.abs(kept[:, np.newaxis] - levels).min(axis=1)
    error = np.abs(kept - codes[~pruned] * float(scale))
    # The paper's levels are snapped by up to half of 1 / 127 after the
    # decision for one of them.
    tolerance = 1 / 127 if level_grid == "dead_zone" else 1e-6
    np.testing.assert_allclose(error, nearest, atol=tolerance)


@pytest.mark.parametrize("level_grid", ["dead_zone", "uniform"])
@pytest.mark.parametrize("bit_width", [2, 3, 8])
@pytest.mark.parametrize("logit", [0.3, 1.0, 2.0, 4.0])
def test_zero_fraction_counts_the_zeros_of_blocks(
    rng, logit, level_grid, bit_width
):
    weights = rng.normal(scale=0.5, size=(8, 7)).astype("float32")
    arguments = {
        **BLOCK,
        "dead_zone_logit": logit,
        "bit_width": bit_width,
        "level_grid": level_grid,
        "sparsity_block": 2,
    }
    codes, scale = ops.quantize(weights, **arguments)
    quantized = ops.fake_quantize(weights, **arguments)

    zeros = float(keras.ops.mean(keras.ops.cast(codes == 0, "float32")))
    assert float(ops.zero_fraction(weights, **arguments)) == pytest.approx(
        zeros
    )
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(quantized),
        keras.ops.convert_to_numpy(codes * scale),
    )


def test_gradient_of_blocks_is_that_of_the_level_each_weight_got(rng):
    weights = rng.normal(scale=0.5, size=(6, 8)).astype("float32")
    upstream = rng.normal(size=weights.shape).astype("float32")
    logit, max_code = 0.6, 3

    def loss(w, theta):
        quantized = ops.fake_quantize(
            w,
            abs_bound=1.0,
            dead_zone_logit=theta,
            bit_width=3,
            sparsity_block=2,
        )
        return keras.ops.sum(quantized * upstream)

    to_weights, to_logit = gradient(loss, weights, np.float32(logit))

    # The closed form of `fake_quantize`, with the index after the decision
    # for the block; in the last two, with d the width of the dead zone.
    half = 1 - np.tanh(logit)  # d / 2
    spacing = (1 - half) / (max_code - 0.5)
    offset = half - spacing / 2
    magnitudes = np.abs(weights)
    position = np.maximum(magnitudes - offset, 0) / spacing
    level = np.clip(np.round(position), 0, max_code)
    level = np.maximum(level, magnitudes > (offset + spacing) / 2)
    level = np.where(_block_rms(weights, 2) > half, level, 0)
    sign = np.sign(weights)
    to_spacing = np.sum(upstream * sign * (level - position))
    to_offset = np.sum(upstream * sign * ((level > 0) - 1.0))
    spacing_by_half = -1 / (max_code - 0.5)
    offset_by_half = 1 - spacing_by_half / 2
    expected = (to_spacing * spacing_by_half + to_offset * offset_by_half) * -(
        1 - np.tanh(logit) ** 2
    )
    np.testing.assert_array_equal(to_weights, upstream)
    # Sums of 48 float32 products against float64.
    np.testing.assert_allclose(to_logit, expected, rtol=1e-4, atol=1e-5)
