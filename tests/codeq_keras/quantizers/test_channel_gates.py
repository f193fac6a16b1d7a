"""ChannelGates: what they remove, hold and save; what they refuse."""

import keras
import numpy as np
import pytest
from support.training import compile_and_fit

import codeq_keras
from codeq_keras import CoDeQConfig, CompressionBudget


@pytest.fixture
def network():
    """Classes of 16, 11 and 30 channels; a Flatten before the last kernel."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(16, 3, use_bias=False, name="wide"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2D(11, 3, activation="relu", name="odd"),
            layers.Flatten(),
            layers.Dense(30, activation="relu", name="units"),
            layers.Dense(3, name="head"),
        ],
        name="network",
    )


def dense(sizes):
    layers = [keras.layers.Dense(size) for size in sizes]
    return keras.Sequential([keras.Input((4,)), *layers], name="small")


@pytest.mark.parametrize("multiple", [0, -8, True, 8.0, "8"])
def test_a_multiple_is_a_positive_integer(network, multiple):
    with pytest.raises(ValueError, match=f"channel_multiple={multiple!r}"):
        codeq_keras.quantize_model(network, channel_multiple=multiple)


@pytest.mark.parametrize("multiple", [8, 16])
def test_a_multiple_as_large_as_each_class_is_refused(multiple):
    with pytest.raises(ValueError, match=f"one `channel_multiple`, {multiple}"):
        codeq_keras.quantize_model(dense([8, 3]), channel_multiple=multiple)


def test_a_model_of_one_kernel_is_refused():
    with pytest.raises(ValueError, match="the output"):
        codeq_keras.quantize_model(dense([3]), channel_multiple=1)


def test_a_subclassed_model_is_refused_by_name():
    class Own(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.first = keras.layers.Dense(16)
            self.last = keras.layers.Dense(3)

        def call(self, inputs):
            return self.last(self.first(inputs))

        def get_config(self):
            return {"name": self.name}

    model = Own(name="own")
    model(np.ones((1, 4)))

    with pytest.raises(ValueError, match="'own'"):
        codeq_keras.quantize_model(model, channel_multiple=8)


def test_pruned_blocks_are_refused_by_name(network):
    with pytest.raises(ValueError, match="sparsity_block=2 for 'wide/kernel'"):
        codeq_keras.quantize_model(
            network, CoDeQConfig(sparsity_block=2), channel_multiple=8
        )


def test_frozen_kernels_keep_their_channels_and_are_named(network, data):
    network.get_layer("depthwise").trainable = False
    qmodel = codeq_keras.quantize_model(network, channel_multiple=8)

    with pytest.raises(ValueError, match=r"'depthwise/kernel', not trainable"):
        compile_and_fit(
            qmodel, data, callbacks=[CompressionBudget(relative_macs=0.3)]
        )
    [wide] = [
        channels
        for channels in codeq_keras.report(qmodel).channels
        if "wide/kernel" in channels.members
    ]
    assert wide.frozen_reason == "'depthwise/kernel' is not trainable"


def removed(model, config=None, **kwargs):
    """A quantized model without training, half of whose classes are gone."""
    qmodel = codeq_keras.quantize_model(
        model, config, channel_multiple=8, **kwargs
    )
    gates = qmodel.channel_gates
    halves = np.ceil(gates.sizes / 2 / 8) * 8
    gates.held_counts.assign(halves)
    return qmodel


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        (CoDeQConfig(), {"odd": None}),
        (CoDeQConfig(axis=-1, level_grid="uniform"), {}),
        (CoDeQConfig(level_grid="paper"), {}),
    ],
    ids=["float", "axis", "paper"],
)
def test_a_report_counts_the_bytes_of_the_file(network, config, overrides):
    qmodel = removed(network, config, overrides=overrides)

    before = codeq_keras.report(qmodel)
    after = codeq_keras.report(codeq_keras.remove_channels(qmodel))

    assert before.size_bytes == after.size_bytes
    assert before.entropy_size_bytes == after.entropy_size_bytes
    for large, small in zip(before.layers, after.layers, strict=True):
        assert large.size_bytes == small.size_bytes
    macs = [
        sum(layer.num_macs for layer in report.layers)
        for report in (before, after)
    ]
    # The rounding of float32.
    assert before.relative_macs == pytest.approx(macs[1] / macs[0], rel=1e-6)
    bops = after.relative_bops * macs[1] / macs[0]
    assert before.relative_bops == pytest.approx(bops, rel=1e-6)


def test_kernels_in_float_lose_their_channels_too(network, data):
    qmodel = removed(network, overrides={"odd|units": None})
    stripped = codeq_keras.strip_quantizers(qmodel)
    small = codeq_keras.remove_channels(stripped)

    expected = np.asarray(qmodel(data[0]))
    # One is the same sum in another order.
    np.testing.assert_allclose(stripped(data[0]), expected, atol=1e-6)
    np.testing.assert_allclose(small(data[0]), expected, atol=1e-6)
    assert small.get_layer("wide").filters == 8
    report = codeq_keras.report(qmodel)
    units = next(k for k in report.layers if k.path == "units/kernel")
    assert units.sparsity == pytest.approx(
        1 - 8 / 11 * 16 / 30
    )  # 8 of 11 channels, 16 of 30 units.


def test_released_zeros_leave_removed_channels_out(network, data):
    qmodel = removed(network)
    expected = codeq_keras.report(qmodel).channels

    qmodel.release_budget()
    compile_and_fit(qmodel, data)

    assert codeq_keras.report(qmodel).channels == expected
