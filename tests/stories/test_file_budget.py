"""A budget in the bytes of the file, from `fit` to the file on the disk."""

import keras
import numpy as np
import pytest
from keras import layers
from support.training import compile_and_fit

import codeq_keras
import tflite_export
from codeq_keras import CompressionBudget

# Training, export and what a compiler packs: what a budget promises.
WITHIN = 0.97


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=64)
    patterns = rng.normal(size=(4, 8, 8, 3))
    x = patterns[y] + rng.normal(size=(64, 8, 8, 3))
    return x.astype("float32"), y


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(32, 3, use_bias=False, name="first"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(64, 3, name="second", activation="relu"),
            layers.Conv2D(64, 3, name="third", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="head"),
        ]
    )


@pytest.mark.parametrize(
    ("target", "file_bytes"),
    [
        ("litert", 30_000),
        pytest.param("ethos-u", 24_000, marks=pytest.mark.slow),
    ],
)
def test_file_is_below_its_budget_and_near(
    model, data, tmp_path, target, file_bytes
):
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    history = compile_and_fit(
        qmodel,
        data,
        epochs=30,
        callbacks=[CompressionBudget(file_bytes=file_bytes, target=target)],
    )

    path = tmp_path / "model.tflite"
    result = tflite_export.export(qmodel, path, target=target)
    on_device = result.other_files[0] if target == "ethos-u" else path
    size = on_device.stat().st_size
    assert WITHIN * file_bytes <= size <= file_bytes
    # BatchNorm is re-estimated after the last epoch.
    assert history.history["file_bytes"][-1] == pytest.approx(size, abs=64)
    if target == "litert":
        # It has no sparse Dense kernel, so zeros there would save no byte.
        found = codeq_keras.report(qmodel).layers
        zeros = {row.path: row.sparsity for row in found}
        assert zeros["third/kernel"] > 0.7 > zeros["head/kernel"] + 0.3


def test_unreachable_budget_names_the_least(model, data):
    qmodel = codeq_keras.quantize_model(model)
    with pytest.raises(ValueError, match=r"must be at least [\d,]+ here"):
        compile_and_fit(
            qmodel, data, callbacks=[CompressionBudget(file_bytes=2_000)]
        )


@pytest.mark.parametrize("target", ["phone", "litert-sparse"])
def test_other_targets_are_refused_by_name(model, data, target):
    qmodel = codeq_keras.quantize_model(model)
    budget = CompressionBudget(file_bytes=30_000, target=target)
    with pytest.raises(ValueError, match=target):
        compile_and_fit(qmodel, data, callbacks=[budget])


def test_target_without_file_bytes_is_refused():
    with pytest.raises(ValueError, match="`target` is the device"):
        CompressionBudget(sparsity=0.5, target="tflm")


@pytest.mark.slow
def test_removed_channels_are_no_bytes(model, data, tmp_path):
    qmodel = codeq_keras.quantize_model(
        model, activation_bit_width=8, channel_multiple=8
    )
    compile_and_fit(
        qmodel,
        data,
        epochs=40,
        callbacks=[CompressionBudget(file_bytes=20_000)],
    )

    path = tmp_path / "model.tflite"
    size = tflite_export.export(qmodel, path).size_bytes
    assert WITHIN * 20_000 <= size <= 20_000


def test_budget_above_the_dense_file_is_refused(model, data):
    qmodel = codeq_keras.quantize_model(model)
    budget = CompressionBudget(file_bytes=200_000)
    with pytest.raises(ValueError, match="nothing is to be lowered"):
        compile_and_fit(qmodel, data, callbacks=[budget])
