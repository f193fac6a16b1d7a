"""A file says what made it, and the same model makes the same bytes."""

import hashlib
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import codeq_keras
import tflite_export

EXPORT = """
import sys
import numpy as np
import keras, codeq_keras, tflite_export
model = keras.saving.load_model(sys.argv[1])
tflite_export.export(model, f"{sys.argv[2]}/model.tflite", target="tflm")
"""
# What an older record took: "codeq-keras 0.1.0".
OLD_BYTES = len("codeq-keras 0.1.0")
MAX_MORE_BYTES = 150


@pytest.fixture(scope="module")
def qmodel():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2), name="image"),
            keras.layers.Conv2D(8, 3, use_bias=False, name="conv"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(4, name="head"),
        ]
    )
    config = codeq_keras.CoDeQConfig(bit_width=4, level_grid="uniform")
    qmodel = codeq_keras.quantize_model(model, config, activation_bit_width=8)
    samples = np.random.default_rng(0).normal(size=(32, 6, 6, 2))
    codeq_keras.calibrate_activations(qmodel, samples.astype("float32"))
    return qmodel


def _export(qmodel, folder, **options):
    path = folder / "model.tflite"
    return tflite_export.export(qmodel, path, **options)


def test_file_names_versions_target_and_options(qmodel, tmp_path, capsys):
    result = _export(qmodel, tmp_path, target="tflm")

    inspected = tflite_export.inspect(result.path)
    text = inspected.description
    assert text.startswith("codeq-keras ")
    for words in (
        "for tflm",
        f"keras {keras.__version__}",
        "bit_width=4",
        "level_grid='uniform'",
        "activation_bit_width=8",
    ):
        assert words in text
    assert "axis" not in text  # It has the default.
    assert f"description: {text}" in str(inspected)
    assert len(text) <= OLD_BYTES + MAX_MORE_BYTES
    assert str(tmp_path) not in text


def test_same_model_makes_the_same_bytes_in_every_process(qmodel, tmp_path):
    saved = tmp_path / "model.keras"
    qmodel.save(saved)
    hashes = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", EXPORT, saved, folder],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        hashes.append(
            {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.iterdir())
            }
        )

    assert hashes[0] == hashes[1]
    # The C++ source and header beside it as well.
    assert "model.tflite" in hashes[0]
    assert len(hashes[0]) == 3


def test_progress_is_on_terminals_only(qmodel, tmp_path, capfd, monkeypatch):
    _export(qmodel, tmp_path)
    log = capfd.readouterr()
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    _export(qmodel, tmp_path)
    terminal = capfd.readouterr()
    _export(qmodel, tmp_path, verbose=0)
    quiet = capfd.readouterr()

    steps = ("Converting", "Storing", "Running the file", "Packaging")
    assert log.out == terminal.out == quiet.out == ""
    assert "Packaging for LiteRT" in terminal.err
    for text in (log.err, quiet.err):
        assert not any(step in text for step in steps)


def test_other_verbosities_are_refused(qmodel, tmp_path):
    with pytest.raises(ValueError, match="`verbose` must be 1"):
        _export(qmodel, tmp_path, verbose=2)
