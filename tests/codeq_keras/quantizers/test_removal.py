"""A quantized model without its removed channels computes the same."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from support.random_networks import (
    BLOCKS,
    RandomNetwork,
    Step,
    build,
    images,
    random_networks,
)

import codeq_keras
from codeq_keras import CoDeQConfig

MULTIPLE = 2
NUM_IMAGES = 8

configs = st.sampled_from(
    [
        CoDeQConfig(),
        CoDeQConfig(bit_width=2),
        CoDeQConfig(bit_width="learned", axis=-1),
        CoDeQConfig(bit_width=3, level_grid="uniform"),
    ]
)
# Of the random networks, in which sums of a few float32 cancel. Each of 12
# layers may lose some units in the last place.
TOLERANCE = 1e-5


def with_random_counts(model, config, activation_bit_width, seed):
    """Quantizes a model; each class keeps channels by chance, in any order."""
    rng = np.random.default_rng(seed)
    qmodel = codeq_keras.quantize_model(
        model,
        config,
        activation_bit_width=activation_bit_width,
        channel_multiple=MULTIPLE,
    )
    if activation_bit_width:
        codeq_keras.calibrate_activations(qmodel, images(model, NUM_IMAGES))
    gates = qmodel.channel_gates
    energies = keras.ops.convert_to_numpy(gates.energy)
    drawn = rng.uniform(0.1, 1, energies.shape)
    gates.hold_energies(np.where(energies < 0, energies, drawn))
    counts = MULTIPLE * rng.integers(1, np.ceil(gates.sizes / MULTIPLE) + 1)
    gates.held_counts.assign(np.minimum(counts, gates.sizes))
    return qmodel


def outputs_of(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def assert_removal_keeps(model, config=None, activation_bit_width=None, seed=0):
    qmodel = with_random_counts(model, config, activation_bit_width, seed)
    x = images(model, NUM_IMAGES)

    small = codeq_keras.remove_channels(qmodel)

    left, right = outputs_of(qmodel, x), outputs_of(small, x)
    tolerance = TOLERANCE * max(np.abs(left).max(), 1e-3)
    if activation_bit_width:
        # Now and then a last bit rounds a value to the next integer.
        scale = codeq_keras.activation_ranges(qmodel)["logits"].scale
        tolerance += 2 * scale
        assert np.mean(np.abs(left - right) > scale / 2) < 0.2
    np.testing.assert_allclose(left, right, rtol=0, atol=tolerance)
    assert_same_state(qmodel, small)
    return small


def assert_same_state(qmodel, small):
    whole = codeq_keras.quantized_weights(qmodel)
    for path, weight in codeq_keras.quantized_weights(small).items():
        np.testing.assert_array_equal(
            weight.codes[weight.codes != 0],
            whole[path].codes[whole[path].codes != 0],
            path,
        )
    ranges = codeq_keras.activation_ranges(qmodel)
    assert codeq_keras.activation_ranges(small) == ranges
    before, after = (codeq_keras.report(each) for each in (qmodel, small))
    dense = sum(layer.num_macs for layer in before.layers)
    left = sum(layer.num_macs for layer in after.layers)
    # In float32, of up to 60 thousand.
    assert before.relative_macs * dense == pytest.approx(left, rel=1e-6)


@pytest.mark.parametrize("kind", BLOCKS)
def test_each_kind_of_layer_keeps_its_outputs(kind):
    steps = (Step("convolution", width=8), Step(kind), Step(kind, other=1))

    small = assert_removal_keeps(build(RandomNetwork(steps, "flatten")))

    assert small.latent_model.get_layer("stem").filters <= 6


def _try(described, config, bits, seed):
    try:
        assert_removal_keeps(build(described), config, bits, seed)
    except ValueError as error:
        if "whose channels all stay" not in str(error):
            raise
        reject()


drawn = given(
    random_networks(),
    configs,
    st.sampled_from([None, 8]),
    st.integers(0, 2**16),
)
quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much]


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=quiet,
)
@drawn
def test_random_networks_keep_their_outputs(described, config, bits, seed):
    _try(described, config, bits, seed)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=quiet)
@drawn
def test_many_random_networks_keep_their_outputs(described, config, bits, seed):
    _try(described, config, bits, seed)
