"""Files for the Edge TPU, by its documented rules."""

import shutil

import keras
from keras import layers
from support.custom_model import Floor

from tflite_export import check
from tflite_export.targets.edgetpu import parse_log


def test_edge_tpu_takes_plain_convolutions_and_says_what_it_did_not_run(
    dense_path,
):
    report = check(dense_path, target="edgetpu")

    assert report.is_ok
    assert list(report.placement) == ["Edge TPU"]
    if shutil.which("edgetpu_compiler") is None:
        assert "documented rules only" in str(report)


def test_edge_tpu_names_operators_it_does_not_have():
    model = keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Conv2D(4, 3), Floor()]
    )

    report = check(model, target="edgetpu")

    assert not report.is_ok
    assert "FLOOR (operator 2): is no operator" in str(report)


def test_edge_tpu_log_of_the_compiler_is_read():
    log = (
        "CONV_2D      12   Mapped to Edge TPU\n"
        "SOFTMAX      1    Operation is otherwise supported, but not mapped\n"
    )

    finding = parse_log(log, succeeded=True)

    assert finding.is_blocking
    assert "1 SOFTMAX" in finding.text
    assert "CONV_2D" not in finding.text
    assert parse_log("Internal error", succeeded=False).is_blocking
