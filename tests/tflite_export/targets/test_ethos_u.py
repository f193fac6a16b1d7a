"""Files for the Ethos-U: compiled by Vela, without a fallback."""

import importlib.util

import keras
import pytest
from keras import layers
from support.custom_model import Floor
from support.foreign import FILES

from tflite_export import benchmark, check
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.targets.ethos_u import target
from tflite_export.targets.ethos_u.target import require_no_fallback
from tflite_export.targets.ethos_u.vela import EthosUReport, compile_file

needs_vela = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None,
    reason="Vela is not installed (extra `targets`).",
)


@needs_vela
def test_ethos_u_export_writes_the_compiled_file_and_reports_its_bits(
    export_for,
):
    result = export_for("ethos-u")

    device = result.device
    assert [p.name for p in result.other_files] == ["model_vela.tflite"]
    assert Flatbuffer(result.other_files[0].read_bytes()).operators[0].is_custom
    # 80 % zeros and 15 levels have 1.4 bits of entropy; streams are padded.
    assert 1 < device.bits_per_weight < 2.5
    assert device.accelerator == "ethos-u55-128"
    assert 0 < device.npu_cycles <= device.cycles
    assert device.sram_bytes > 0
    assert "bits a weight" in str(result)


@needs_vela
@pytest.mark.parametrize("size", ["ethos-u65-256", "ethos-u85-256"])
def test_other_generations_are_selectable(dense_path, size):
    report = compile_file(dense_path.read_bytes(), accelerator=size)

    assert report.accelerator == size
    assert report.num_cpu_operators == 0
    assert report.encoded_bytes > 0


@needs_vela
def test_operator_that_falls_back_to_the_cpu_is_named_and_refused():
    model = keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Conv2D(4, 3), Floor()]
    )

    report = check(model, target="ethos-u")

    assert not report.is_ok
    assert "FLOOR" in report.placement["CPU"]
    assert "CONV_2D" in report.placement["NPU"]
    assert "falls back to the CPU" in str(report)


@needs_vela
def test_layer_normalization_of_an_image_runs_on_the_npu():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(16, 1),
            layers.LayerNormalization(),
        ]
    )

    report = check(model, target="ethos-u")

    # Vela has no MEAN over the channels of a tensor of rank 4.
    assert report.placement["NPU"]["MEAN"] == 2
    assert report.is_ok


@needs_vela
@pytest.mark.parametrize("name", ["fixed_batch", "custom_operator"])
def test_what_runs_on_the_cpu_alone_has_no_cycles(tmp_path, name):
    path = tmp_path / "model.tflite"
    path.write_bytes(FILES[name]())

    report = check(path, target="ethos-u")
    row = benchmark(path, targets=("ethos-u",)).rows[0]

    assert set(report.placement) == {"CPU"}
    assert not report.is_ok
    assert report.facts == {}
    assert row.measurements == ()
    (not_run,) = row.not_run
    assert "nothing of it runs on the NPU" in not_run.reason
    # Vela calls every custom operator CUSTOM.
    assert ("MakersOwn" in not_run.reason) == (name == "custom_operator")


@needs_vela
def test_a_compiled_file_is_not_compiled_again(tmp_path):
    data = FILES["zero_point_of_uint8"]()
    path = tmp_path / "model_vela.tflite"
    path.write_bytes(compile_file(data, accelerator="ethos-u55-128").compiled)

    report = check(path, target="ethos-u")
    row = benchmark(path, targets=("ethos-u",)).rows[0]

    assert report.is_ok
    assert report.placement == {"NPU": {"ethos-u": 1}}
    assert row.measurements == ()
    assert "compiled already" in row.not_run[0].reason


def test_operators_without_a_reason_are_found_too(tmp_path, monkeypatch):
    # Vela counts more operators on the CPU than it explains.
    report = EthosUReport(
        *("ethos-u55-128", "", 1, 1, 1, 1, 1, 1),
        cpu_operators=(),
        num_cpu_operators=2,
        num_npu_operators=1,
        compiled=b"",
    )
    monkeypatch.setattr(target, "compile_file", lambda data, **_: report)
    path = tmp_path / "model.tflite"
    path.write_bytes(FILES["zero_point_of_uint8"]())

    checked = check(path, target="ethos-u")

    assert not checked.is_ok
    assert "2 more" in str(checked)


def test_fallback_is_an_error_for_the_export():
    report = EthosUReport(
        *("ethos-u55-128", "", 1, 1, 1, 1, 1, 1),
        cpu_operators=(("FLOOR", "x", "Unsupported opType"),),
        num_cpu_operators=1,
        num_npu_operators=1,
        compiled=b"",
    )

    with pytest.raises(ValueError, match=r"1 that fall back .*\n- FLOOR 'x'"):
        require_no_fallback(report)
