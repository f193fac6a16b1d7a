"""The baselines of the accuracy benchmark do what their papers say."""

import keras
import numpy as np
import pytest
from baselines import optimal_brain, pruning
from baselines.masked_model import MaskedModel, min_max_quantize

from codeq_keras.architecture.kernels import find_kernels


def small_network() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(3, name="dense")(x))


def random_problem(num_rows: int = 3, size: int = 7):
    """Rows of weights, and the Hessian of correlated inputs."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, size)) @ rng.normal(size=(size, 50))
    return rng.normal(size=(num_rows, size)), (x @ x.T)[np.newaxis]


def test_min_max_quantization_uses_every_level_of_its_width():
    weights = np.linspace(-1, 1, 101, dtype="float32")[:, np.newaxis]
    for bit_width in (2, 3, 4, 8):
        levels = np.unique(min_max_quantize(weights, [0], bit_width))
        assert len(levels) == min(2**bit_width - 1, 101)
        assert levels[-1] == 1.0


def test_masked_model_without_pruning_and_quantization_is_the_float_model():
    net = small_network()
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype("float32")
    expected = net.predict(x, verbose=0)
    model = MaskedModel(net, bit_width=None)
    assert np.array_equal(model.predict(x, verbose=0), expected)


def test_pruning_ends_at_the_densities_and_pruned_weights_stay_zero():
    model = MaskedModel(small_network(), bit_width=4)
    densities = [0.5, 0.25, 1.0]
    model.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 6, 6, 2)).astype("float32")
    model.fit(
        x,
        rng.integers(0, 3, 96),
        batch_size=8,
        epochs=2,
        verbose=0,
        callbacks=[pruning.PruneOnSchedule(densities, end_step=14)],
    )
    for mask, deployed, density in zip(
        model.masks, model.deployed(), densities, strict=True
    ):
        kept = keras.ops.convert_to_numpy(mask)
        # A density is met to one weight.
        assert abs(kept.sum() - density * kept.size) <= 1
        assert not deployed[kept == 0].any()


def test_layer_wise_densities_keep_the_multiply_accumulates_asked_for():
    kernels = find_kernels(small_network())
    macs = np.array([kernel.num_macs for kernel in kernels])
    for exponent in (0.0, 0.5, 1.0):
        densities = pruning.layer_wise_densities(
            kernels, 0.3, exponent=exponent
        )
        # One weight of the convolution is 1/72 of its cost.
        assert np.dot(densities, macs) / macs.sum() == pytest.approx(
            0.3, abs=0.02
        )


def test_first_removal_is_the_cheapest_of_all_refitted_ones():
    rows, hessian = random_problem()
    order, errors = optimal_brain.pruning_order(rows, hessian)
    for row, first, error in zip(rows, order[:, 0], errors[:, 0], strict=True):
        added = []
        for removed in range(row.size):
            mask = np.ones((1, row.size), bool)
            mask[0, removed] = False
            change = optimal_brain.refit(row[np.newaxis], hessian, mask) - row
            added.append(float((change @ hessian[0] @ change.T)[0, 0]))
        assert np.argmin(added) == first
        # The order is found in float32.
        assert error == pytest.approx(min(added), rel=1e-3)


def test_errors_of_all_removals_add_up_to_the_energy_of_the_row():
    rows, hessian = random_problem()
    _, errors = optimal_brain.pruning_order(rows, hessian)
    energy = np.einsum("ri,ij,rj->r", rows, hessian[0], rows)
    np.testing.assert_allclose(errors.sum(1), energy, rtol=1e-3)


def test_compensated_rounding_beats_plain_rounding():
    rows, hessian = random_problem(num_rows=20, size=16)
    mask = np.ones(rows.shape, bool)
    result = optimal_brain.quantize_in_order(rows, hessian, mask, 3)
    plain = optimal_brain.quantize_in_order(
        rows, np.eye(16)[np.newaxis], mask, 3
    )

    def error(x: np.ndarray) -> float:
        return float(np.einsum("ri,ij,rj->", x - rows, hessian[0], x - rows))

    # Measured 0.64; without correlation there would be little to gain.
    assert error(result) < 0.8 * error(plain)
    assert all(len(np.unique(row)) <= 7 for row in result)


def test_optimal_brain_compression_meets_density_and_width():
    net = small_network()
    macs = np.array([kernel.num_macs for kernel in find_kernels(net)])
    x = np.random.default_rng(0).normal(size=(32, 6, 6, 2)).astype("float32")
    optimal_brain.compress(net, x, bit_width=4, density=0.5)
    kernels = [
        keras.ops.convert_to_numpy(kernel.variable)
        for kernel in find_kernels(net)
    ]
    density = np.array([np.mean(kernel != 0) for kernel in kernels])
    # Rounding to zero only lowers it; one weight is 1/72 of the first kernel.
    assert np.dot(density, macs) / macs.sum() <= 0.52
    assert density.sum() > 0.5
    dense = kernels[-1]
    assert all(len(np.unique(np.abs(c))) <= 8 for c in dense.T)


def test_compensation_sees_patches_in_the_order_of_the_kernel():
    net = small_network()
    kernel = find_kernels(net)[0]
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype("float32")
    patches = optimal_brain._patches(kernel.layer, x)
    weights = keras.ops.convert_to_numpy(kernel.variable)
    outputs = patches.reshape(len(patches), -1) @ weights.reshape(-1, 4)
    expected = keras.ops.convert_to_numpy(kernel.layer(x)).reshape(-1, 4)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
