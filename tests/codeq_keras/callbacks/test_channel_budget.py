"""CompressionBudget of models that may lose channels."""

import warnings

import keras
import numpy as np
import pytest
from support.training import compile_and_fit

import codeq_keras
from codeq_keras import CompressionBudget

# With 32 steps an epoch, as many as a budget needs: the end of an epoch takes
# longer than its steps.
EPOCHS = 10


@pytest.fixture
def network():
    """Free classes of 16, 32 and 22 channels."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, activation="relu", name="first")(inputs)
    x = layers.Conv2D(32, 3, activation="relu", name="second")(x)
    y = layers.Conv2D(32, 3, padding="same", name="third")(x)
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    x = layers.Dense(22, activation="relu", name="units")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def trained(
    model, data, epochs=EPOCHS, multiple=8, jit_compile=False, **budget
):
    qmodel = codeq_keras.quantize_model(model, channel_multiple=multiple)
    compile_and_fit(
        qmodel,
        data,
        epochs=epochs,
        jit_compile=jit_compile,
        callbacks=[CompressionBudget(**budget)],
    )
    return qmodel


@pytest.mark.parametrize(
    ("target", "multiple", "jit_compile"),
    [
        (0.5, 8, False),
        (0.2, 1, False),
        pytest.param(0.75, 4, True, marks=pytest.mark.slow),
    ],
    ids=["half", "single", "jit"],
)
def test_a_budget_on_macs_is_met_within_a_multiple_and_never_exceeded(
    network, data, target, multiple, jit_compile
):
    # A short training: the numbers do not depend on it.
    qmodel = trained(
        network,
        data,
        EPOCHS,
        multiple,
        jit_compile=jit_compile,
        relative_macs=target,
    )

    gates = qmodel.channel_gates
    assert codeq_keras.report(qmodel).relative_macs <= target
    counts = gates.counts()
    is_whole = (counts % multiple == 0) | (counts == gates.sizes)
    assert is_whole.all()
    assert (counts >= gates.floors).all()
    for index in range(len(counts)):
        more = counts.copy()
        more[index] = min(more[index] + multiple, gates.sizes[index])
        is_larger = more[index] > counts[index]
        assert not is_larger or float(gates.relative_macs(more)) > target


def test_channels_zeros_and_their_limits_share_a_budget(network, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # None of a miss.
        more = [np.concatenate([array] * 8) for array in data]
        qmodel = trained(network, more, relative_bops=0.02, max_sparsity=0.7)

    report = codeq_keras.report(qmodel)
    # 0.1 points: as a budget promises.
    assert report.relative_bops == pytest.approx(0.02, abs=1e-3)
    assert report.relative_macs < 1
    small = codeq_keras.report(codeq_keras.remove_channels(qmodel))
    # 0.5 points, or a single weight: as a limit promises.
    for kernel in small.layers:
        assert kernel.sparsity <= 0.7 + max(0.005, 1 / kernel.num_weights)


def test_a_saved_model_has_the_same_channels(network, data, tmp_path):
    qmodel = trained(network, data, relative_macs=0.5)
    qmodel.save(tmp_path / "model.keras")

    loaded = keras.models.load_model(tmp_path / "model.keras")

    np.testing.assert_array_equal(qmodel(data[0]), loaded(data[0]))
    expected = codeq_keras.report(qmodel)
    assert codeq_keras.report(loaded).channels == expected.channels
    compile_and_fit(loaded, data)
    assert codeq_keras.report(loaded).channels == expected.channels


def test_the_least_budget_is_named(network, data):
    with pytest.raises(ValueError, match=r"cannot be below 0\.1\d+ here"):
        trained(network, data, 1, relative_macs=0.01)


def test_a_budget_on_macs_needs_a_multiple(network, data):
    with pytest.raises(ValueError, match="channel_multiple=8"):
        trained(network, data, 1, None, relative_macs=0.5)
