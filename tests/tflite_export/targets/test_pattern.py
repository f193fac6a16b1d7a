"""2:4 zeros in the file: proven for the Ethos-U, noted for all others."""

import dataclasses
import importlib.util

import keras
import numpy as np
import pytest
from keras import layers

import codeq_keras
from tflite_export import check, export
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.targets.ethos_u.pattern import pattern_notes
from tflite_export.trained_model import read_model

needs_vela = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None,
    reason="Vela is not installed (extra `targets`).",
)


@pytest.fixture(scope="module")
def qmodel():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(8, 3, name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2DTranspose(12, 2, name="up"),
            layers.Conv2D(8, 1, groups=1, name="point"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="head"),
        ]
    )
    config = codeq_keras.CoDeQConfig(sparsity_pattern="2:4")
    return codeq_keras.quantize_model(model, config)


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 8, 8, 4)).astype("float32")


@pytest.fixture(scope="module")
def plain_export(qmodel, samples, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "model.tflite"
    result = export(
        qmodel, path, weight_storage="int8", representative_dataset=samples
    )
    return path.read_bytes(), result


def test_every_kernel_has_the_pattern_in_the_file(qmodel, plain_export):
    data, _ = plain_export

    [note] = pattern_notes(Flatbuffer(data), read_model(qmodel, None))

    assert note.startswith("4 of 4 weights trained with 2:4 zeros have them")
    assert "not of silicon" in note


def test_a_file_without_the_zeros_is_refused(plain_export, samples, tmp_path):
    """Codes that are said to have the pattern, of a model that has not."""
    model = keras.Sequential([keras.Input((8,)), layers.Dense(3, name="head")])
    dense = codeq_keras.quantize_model(model)
    path = tmp_path / "dense.tflite"
    rows = np.random.default_rng(0).normal(size=(8, 8)).astype("float32")
    export(dense, path, weight_storage="int8", representative_dataset=rows)
    trained = read_model(dense, None)
    claimed = {
        name: dataclasses.replace(weight, sparsity_pattern="2:4")
        for name, weight in trained.weights.items()
    }
    trained = dataclasses.replace(trained, weights=claimed)

    with pytest.raises(RuntimeError, match="in each 4 input channels of 'head"):
        pattern_notes(Flatbuffer(path.read_bytes()), trained)


def test_other_targets_say_that_they_gain_nothing(qmodel, plain_export):
    _, result = plain_export

    for text in (str(result), str(check(qmodel, target="litert"))):
        assert "2:4 zeros in 4 weights" in text
        assert "only Ethos-U85 skips them" in text


@needs_vela
@pytest.mark.parametrize(
    ("target", "gains"), [("ethos-u85-256", True), ("ethos-u55-128", False)]
)
def test_only_ethos_u85_says_no_such_thing(
    qmodel, samples, tmp_path, target, gains
):
    result = export(
        qmodel,
        tmp_path / "model.tflite",
        target=target,
        representative_dataset=samples,
    )

    assert "4 of 4 weights trained with 2:4 zeros have them" in str(result)
    assert ("only Ethos-U85 skips them" not in str(result)) == gains
    assert result.verification.codes_equal
