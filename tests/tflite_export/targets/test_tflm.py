"""Files for microcontrollers: sources that compile, and equal outputs."""

import importlib.util
import shutil
import subprocess

import keras
import pytest
from keras import layers

from tflite_export import check

needs_tflm = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None,
    reason="LiteRT for Microcontrollers is not installed (extra `targets`).",
)


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
    report = check(dense_path, target="tflm")

    assert report.is_ok
    assert report.facts["arena_bytes"] > 0


@needs_tflm
def test_check_for_microcontrollers_sees_the_operators_of_the_export():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])

    report = check(model, target="tflm")

    # A Dense is written as a 1x1 convolution there.
    operators = {name for place in report.placement.values() for name in place}
    assert operators == {"CONV_2D", "RESHAPE"}
