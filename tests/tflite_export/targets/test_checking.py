"""`check` says before the training what the export will do or refuse."""

import importlib.util

import keras
import pytest
from keras import layers
from support.custom_model import Affine
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
    with pytest.raises(ValueError, match=r"Load it with `keras\.saving"):
        check(tmp_path / "model.keras")
