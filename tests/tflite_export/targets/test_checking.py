"""`check` says before the training what the export will do or refuse."""

import importlib.util

import keras
import pytest
from keras import layers
from support.custom_model import Affine
from support.foreign import FILES
from support.plain import export_plain

from tflite_export import check
from tflite_export.targets.edgetpu import EdgeTpu


def test_pre_flight_names_what_the_export_will_refuse():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(12, activation="relu"),
            layers.BatchNormalization(),
            Affine(4, name="own"),
        ]
    )

    report = check(model)

    assert not report.is_ok
    assert "in front of layer 'own'" in str(report)


def test_pre_flight_names_channels_that_cannot_be_removed():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3)(inputs)
    x = keras.layers.LayerNormalization(name="norm")(x)
    x = keras.layers.Conv2D(8, 3)(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(4)(x))
    [note] = check(model).findings
    assert note.subject == "2 of 5 classes of channels"
    assert "'norm'" in note.text
    assert not note.is_blocking


def test_pre_flight_sees_the_rewrites_of_the_export():
    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            layers.LSTM(4),
            layers.LayerNormalization(),
            layers.Dense(6, activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(2),
        ]
    )

    report = check(model)

    assert report.is_ok
    assert "NEG" not in report.placement["CPU"]


def test_failed_target_leaves_all_old_files(tmp_path, dense_only, monkeypatch):
    def refuse(self, data):
        raise ValueError("no")

    monkeypatch.setattr(EdgeTpu, "check", refuse)
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")

    with pytest.raises(ValueError, match="no"):
        export_plain(
            dense_only.model,
            dense_only.trained,
            path,
            representative_dataset=dense_only.samples,
            target="edgetpu",
        )

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("target", "package"),
    [("ethos-u", "ethosu.vela"), ("tflm", "tflite_micro")],
)
def test_missing_tool_names_the_extra_to_install(
    target, package, dense_path, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(
        ImportError, match=rf"{package}.*codeq-keras\[targets\]"
    ):
        check(dense_path, target=target)


def test_damaged_file_ends_check_with_an_error(tmp_path, dense_path):
    path = tmp_path / "short.tflite"
    path.write_bytes(dense_path.read_bytes()[:2000])

    with pytest.raises(ValueError, match=r"undamaged \.tflite file"):
        check(path, target="edgetpu")


def test_path_of_a_keras_file_is_told_to_load_it(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((2,)), layers.Dense(1)]).save(path)

    with pytest.raises(ValueError, match=r"Load it with `keras\.saving"):
        check(path)


def _check(tmp_path, name, **options):
    path = tmp_path / "model.tflite"
    path.write_bytes(FILES[name]())
    return check(path, **options)


@pytest.mark.parametrize("name", ["sparse_floats", "sparse_halves"])
def test_sparse_floats_that_run_are_a_note_and_no_block(tmp_path, name):
    report = _check(tmp_path, name)

    assert report.is_ok
    (note,) = (f for f in report.findings if f.subject == "sparse weights")
    assert "not proven" in note.text
    assert "make arm" in note.remedy
    # The target whose export proves it goes on refusing.
    assert not _check(tmp_path, name, target="litert-sparse").is_ok


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("custom_operator", "Replace the layer whose operator it names."),
        ("empty_vector_for_each_tensor", "convert the model again."),
    ],
)
def test_advice_on_an_operator_follows_only_its_name(tmp_path, name, remedy):
    report = _check(tmp_path, name)

    blocking = [f for f in report.findings if f.is_blocking]
    assert len(blocking) == 2
    assert all(finding.remedy.endswith(remedy) for finding in blocking)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("open_size", "was tried with 1 for each open size"),
        ("strings", "takes string, so the file was not run"),
    ],
)
def test_what_cannot_be_tried_is_a_note(tmp_path, name, text):
    report = _check(tmp_path, name)

    assert report.is_ok
    assert text in str(report)


def test_a_file_compiled_for_the_edge_tpu_is_not_blocked_there(tmp_path):
    name = "compiled_for_the_edge_tpu"

    report = _check(tmp_path, name, target="edgetpu")

    assert report.is_ok
    assert report.placement == {"Edge TPU": {"edgetpu-custom-op": 1}}
    assert "compiled for the device" in str(report)
    # On a phone it needs the device's delegate.
    assert not _check(tmp_path, name, target="litert").is_ok
