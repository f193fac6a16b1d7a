"""What the tools of each target say about files, and what is written."""

import importlib.util
import shutil
import subprocess

import keras
import pytest
from keras import layers
from support.custom_model import Affine

from tflite_export import check, check_file, delivery
from tflite_export.exporting import export_stripped
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.targets import edgetpu
from tflite_export.targets.ethos_u import target as ethos_u
from tflite_export.targets.tflm import target as tflm

needs_vela = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None,
    reason="Vela is not installed (extra `targets`).",
)
needs_tflm = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None,
    reason="LiteRT for Microcontrollers is not installed (extra `targets`).",
)


@pytest.fixture(scope="module")
def export_for(sparse_convolutions, export_grid_model, tmp_path_factory):
    def export(target, **options):
        folder = tmp_path_factory.mktemp(target)
        return export_grid_model(
            *sparse_convolutions, folder, target=target, **options
        ).result

    return export


@pytest.fixture(scope="module")
def dense_path(export_for):
    return export_for("litert").path


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
    report = ethos_u.compile_file(dense_path.read_bytes(), accelerator=size)

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


@keras.saving.register_keras_serializable(package="tests")
class Floor(layers.Layer):
    """An operator that neither Vela nor the Edge TPU has."""

    def call(self, inputs):
        return keras.ops.floor(inputs)


def test_fallback_is_an_error_for_the_export():
    report = ethos_u.EthosUReport(
        *("ethos-u55-128", "", 1, 1, 1, 1, 1, 1),
        cpu_operators=(("FLOOR", "x", "Unsupported opType"),),
        num_cpu_operators=1,
        compiled=b"",
    )

    with pytest.raises(ValueError, match=r"1 that fall back .*\n- FLOOR 'x'"):
        ethos_u.require_no_fallback(report)


@needs_tflm
def test_microcontroller_export_writes_source_that_compiles(
    export_for, tmp_path
):
    result = export_for("tflm")

    source, header = result.other_files
    assert (source.name, header.name) == ("model.cc", "model.h")
    assert f"g_model_len = {result.size_bytes};" in source.read_text()
    assert "resolver.AddDepthwiseConv2D()" in header.read_text()
    assert result.device.arena_bytes > 0
    assert any("weight_storage='lut'" in note for note in result.notes)
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("No C++ compiler.")
    (tmp_path / "use.cc").write_text(
        '#include "model.h"\n'
        "struct Resolver {\n"
        "  int AddConv2D() { return 0; }\n"
        "  int AddDepthwiseConv2D() { return 0; }\n"
        "  int AddMean() { return 0; }\n"
        "  int AddReshape() { return 0; }\n"
        "};\n"
        "int main() {\n"
        "  Resolver resolver;\n"
        "  return RegisterOperators(resolver) && kNumOperators == 4 &&\n"
        "         reinterpret_cast<unsigned long>(g_model) % 16 == 0 &&\n"
        "         g_model[4] == 'T' ? 0 : 1;\n"
        "}\n"
    )
    program = tmp_path / "use"
    subprocess.run(
        [
            *(compiler, "-std=c++17", "-Wall", "-Werror"),
            *("-I", str(source.parent), str(source), str(tmp_path / "use.cc")),
            *("-o", str(program)),
        ],
        check=True,
    )
    assert subprocess.run([program], check=False).returncode == 0


@needs_tflm
def test_outputs_on_a_microcontroller_equal_litert_bit_for_bit(
    grid, export_grid_model, tmp_path, rng
):
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, activation="relu")(image)
    x = layers.DepthwiseConv2D(3, activation="relu")(x)
    # As FULLY_CONNECTED, some of the 16 outputs would be one step away.
    shared = layers.Dense(8)
    rows = layers.Reshape((4, 8))(shared(shared(x)))
    x = layers.Dense(60, activation="relu", use_bias=False)(rows)
    x = layers.Dense(60, activation="relu")(layers.Flatten()(x))
    model = keras.Model(image, [layers.Dense(40)(x), layers.Softmax()(x)])
    trained = grid(model, rng)

    result = export_grid_model(model, trained, tmp_path, target="tflm").result

    assert result.verification.num_tensors == len(trained)
    assert "FULLY_CONNECTED" not in result.device.operators
    assert result.device.max_lsb == 0
    assert "equal to LiteRT's reference kernels" in str(result.device)


@needs_tflm
def test_look_up_tables_save_flash_and_cost_memory(export_for):
    dense, tables = export_for("tflm"), export_for("tflm", weight_storage="lut")

    assert tables.size_bytes < 0.9 * dense.size_bytes
    assert tables.device.arena_bytes > dense.device.arena_bytes
    assert tables.device.max_lsb == dense.device.max_lsb
    assert "TFLM_DECODE" in tables.device.operators
    assert any("bytes of flash less" in note for note in tables.notes)


@needs_tflm
def test_check_for_microcontrollers_measures_the_arena(dense_path):
    report = tflm.check_file(dense_path.read_bytes())

    assert report.is_ok
    assert report.facts["arena_bytes"] > 0


@needs_tflm
def test_check_for_microcontrollers_sees_the_operators_of_the_export():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])

    report = check(model, target="tflm")

    # A Dense is written as a 1x1 convolution there.
    operators = {name for place in report.placement.values() for name in place}
    assert operators == {"CONV_2D", "RESHAPE"}


def test_edge_tpu_takes_plain_convolutions_and_says_what_it_did_not_run(
    dense_path,
):
    report = edgetpu.check_file(dense_path.read_bytes())

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

    finding = edgetpu.parse_log(log, succeeded=True)

    assert finding.is_blocking
    assert "1 SOFTMAX" in finding.text
    assert "CONV_2D" not in finding.text
    assert edgetpu.parse_log("Internal error", succeeded=False).is_blocking


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
    def refuse(data):
        raise ValueError("no")

    monkeypatch.setattr(delivery.edgetpu, "check_file", refuse)
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")

    with pytest.raises(ValueError, match="no"):
        export_stripped(
            dense_only.model,
            dense_only.trained,
            path,
            representative_dataset=dense_only.samples,
            target="edgetpu",
        )

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("check_file", "name"),
    [
        (
            lambda data: ethos_u.compile_file(
                data, accelerator="ethos-u55-128"
            ),
            "Vela",
        ),
        (tflm.check_file, "microcontrollers"),
    ],
    ids=["ethos-u", "tflm"],
)
def test_missing_tool_names_the_extra_to_install(
    check_file, name, dense_path, monkeypatch
):
    data = dense_path.read_bytes()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ImportError, match=rf"{name}.*codeq-keras\[targets\]"):
        check_file(data)


def test_damaged_file_ends_check_with_an_error(tmp_path, dense_path):
    path = tmp_path / "short.tflite"
    path.write_bytes(dense_path.read_bytes()[:2000])

    with pytest.raises(ValueError, match=r"undamaged \.tflite file"):
        check_file(path, target="edgetpu")
