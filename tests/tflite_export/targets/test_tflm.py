"""Files for microcontrollers: sources that compile, and equal outputs."""

import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from support.foreign import CODES, FILES, File, scales

from tflite_export import benchmark, check, inspect
from tflite_export.format.decoding import decoded_constants
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import NO_SCALES, Constant
from tflite_export.runtime import interpreter
from tflite_export.targets.tflm.revision import PACKED_WEIGHTS
from tflite_export.targets.tflm.simulation import (
    largest_steps,
    measure,
    measure_exactly,
)
from tflite_export.weights.sites import weight_sites

needs_tflm = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None,
    reason="LiteRT for Microcontrollers is not installed (extra `targets`).",
)


@needs_tflm
def test_microcontroller_export_writes_source_that_compiles(
    export_for, tmp_path
):
    result = export_for("tflm", weight_storage="int8")

    source, header = result.other_files
    assert (source.name, header.name) == ("model.cc", "model.h")
    assert f"kModelSize = {result.size_bytes};" in header.read_text()
    assert "resolver.AddDepthwiseConv2D()" in header.read_text()
    assert result.device.arena_bytes > 0
    # Packed weights alone need a new firmware.
    assert "// Any tflite-micro that has these" in header.read_text()
    assert not any("tflite-micro" in note for note in result.notes)
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
        "  return model::RegisterOperators(resolver) &&\n"
        "         model::kNumOperators == 4 &&\n"
        "         reinterpret_cast<unsigned long>(model::kModel) % 16 == 0 &&\n"
        "         model::kModel[4] == 'T' ? 0 : 1;\n"
        "}\n"
    )
    program = tmp_path / "use"
    subprocess.run(
        [
            *(compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror"),
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
def test_packed_weights_save_flash_and_cost_memory_and_work(export_for):
    results = {
        storage: export_for("tflm", weight_storage=storage)
        for storage in ("int8", "lut", "huffman", "auto")
    }
    dense, auto = results.pop("int8"), results["auto"]

    sizes = {name: result.size_bytes for name, result in results.items()}
    assert sizes["auto"] == min(sizes.values())
    assert sizes["auto"] <= 0.8 * sizes["lut"] < 0.8 * 0.9 * dense.size_bytes
    saved = f"{dense.size_bytes - auto.size_bytes:,} bytes of flash less"
    more = auto.device.arena_bytes - dense.device.arena_bytes
    assert any(
        saved in note and f"{more:,} bytes of RAM more" in note
        for note in auto.notes
    )
    assert any(
        "huffman; " in note and "int8 " in note and "look-up tables " in note
        for note in auto.notes
    )
    # 5 kernels, each read once; the largest has 32 x 3 x 3 x 32 weights.
    sizes = [3 * 3 * n for n in (3 * 16, 16 * 32, 32, 32 * 32)] + [32 * 10]
    for result in results.values():
        assert result.verification.codes_equal
        assert result.device.max_lsb == dense.device.max_lsb == 0
        assert "TFLM_DECODE" in result.device.operators
    assert auto.device.decoded_bytes == max(sizes)
    assert auto.device.decode_instructions <= 30 * sum(sizes)
    assert dense.device.decode_instructions == 0


@needs_tflm
def test_arena_has_a_limit_that_decides_which_weights_are_packed(export_for):
    dense = export_for("tflm", weight_storage="int8")
    free = export_for("tflm", weight_storage="auto")
    limit = (dense.device.arena_bytes + free.device.arena_bytes) // 2

    held = export_for(f"tflm,max_arena_bytes={limit}", weight_storage="auto")

    assert held.device.arena_bytes <= limit < free.device.arena_bytes
    assert free.size_bytes < held.size_bytes < dense.size_bytes
    assert any("would not fit `max_arena_bytes`" in n for n in held.notes)
    assert held.device.max_lsb == 0


@needs_tflm
def test_arena_that_no_storage_has_is_refused_with_the_least_one(export_for):
    least = export_for("tflm", weight_storage="int8").device.arena_bytes
    with pytest.raises(ValueError, match=f"must be at least {least:,} here"):
        export_for(f"tflm,max_arena_bytes={least - 1}")


@needs_tflm
def test_needed_firmware_is_stated_wherever_weights_are_packed(export_for):
    result = export_for("tflm", weight_storage="huffman")

    revision = "tflite-micro a94423c6b6 (2025-10-31) or newer"
    assert revision in result.other_files[1].read_text()
    assert any(revision in note for note in result.notes)
    report = check(result.path, target="tflm")
    assert report.is_ok
    assert revision in str(report)
    assert report.facts["decode_instructions"] > 0


def test_wheel_of_the_tests_is_not_older_than_the_needed_firmware():
    root = Path(__file__).parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    (bound,) = [
        requirement.partition(";")[0].partition(">=")[2]
        for requirement in project["optional-dependencies"]["targets"]
        if requirement.startswith("tflite-micro")
    ]

    assert bound == PACKED_WEIGHTS.wheel


@needs_tflm
def test_packed_files_are_verified_inspected_and_measured(
    grid, export_grid_model, tmp_path, rng
):
    image = keras.Input((6, 6, 4))
    shared = layers.Conv2D(4, 3, padding="same", name="twice")
    x = layers.DepthwiseConv2D(3, name="depthwise")(shared(shared(image)))
    model = keras.Model(image, layers.Dense(30)(layers.Flatten()(x)))
    trained = grid(model, rng)
    exported = export_grid_model(
        model, trained, tmp_path, target="tflm", weight_storage="huffman"
    )
    path = exported.result.path
    data = path.read_bytes()

    rows = [row for row in inspect(path).tensors if row.is_weight]
    # The kernel with two readers is in the file once.
    assert [row.layout for row in rows] == 3 * ["huffman"]
    counted = sum(row.size_bytes for row in rows)
    file = Flatbuffer(data)
    packed = decoded_constants(file).stored.values()
    assert counted == sum(tensor.size_bytes for tensor in packed)
    assert len(packed) == 3 + 1
    assert exported.result.weight_bytes == counted
    assert exported.result.verification.codes_equal
    assert exported.result.device.num_decoded == 2 * 144 + 36 + 64 * 30
    benchmarked = benchmark(path, targets=("litert", "tflm"))
    values = benchmarked.rows[0].values("tflm")
    assert values["equals_reference"]
    assert (
        values["decode_instructions"] == 30 * exported.result.device.num_decoded
    )
    assert "holds weights for TFLM_DECODE" in str(benchmarked)
    dense = Flatbuffer(decoded_constants(Flatbuffer(data)).dense(data))
    held = [site.slot.codes for site in weight_sites(dense)]
    assert len(held) == 4
    for site, codes in zip(weight_sites(file), held, strict=True):
        assert np.array_equal(site.slot.codes, codes)


@needs_tflm
def test_check_for_microcontrollers_measures_the_arena(dense_path):
    report = check(dense_path, target="tflm")

    assert report.is_ok
    assert report.facts["arena_bytes"] > 0


@needs_tflm
def test_check_for_microcontrollers_sees_the_operators_of_the_export():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])

    report = check(model, target="tflm")

    assert "tflite-micro a94423c6b6 (2025-10-31) or newer" in str(report)
    assert report.is_ok
    # A Dense is written as a 1x1 convolution there.
    operators = {name for place in report.placement.values() for name in place}
    assert operators == {"CONV_2D", "RESHAPE"}


def _only_on_a_microcontroller():
    """As TFLM's person_detect: LiteRT refuses the axis of the bias's scales."""
    file = File()
    graph = file.graph()
    x = graph.tensor("x", "int8", quantization=scales([0.5], [0]))
    w = graph.constant("w", CODES, quantization=scales([0.1], [0]))
    bias = scales([0.05] * 4, [0] * 4, axis=3)
    b = graph.constant("b", np.arange(4, dtype=np.int32), quantization=bias)
    y = graph.tensor("y", "int8", (1, 4), quantization=scales([1.0], [0]))
    graph.operator(
        "FULLY_CONNECTED", [x, w, b], [y], "FullyConnected", version=4
    )
    graph.ends([x], [y])
    return file.to_bytes()


@needs_tflm
def test_failure_of_litert_is_not_one_of_the_microcontroller(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(_only_on_a_microcontroller())

    report = check(path, target="tflm")
    benchmarked = benchmark(path, targets=("tflm",))

    assert not check(path).is_ok
    assert report.is_ok
    assert report.facts["arena_bytes"] > 0
    assert "not compared with LiteRT's: " in str(report)
    values = benchmarked.rows[0].values("tflm")
    assert values["flash_bytes"] == path.stat().st_size
    assert "max_lsb" not in values
    assert "note: outputs on tflm not compared: model" in str(benchmarked)
    # A file of the exporter must be compared.
    data = path.read_bytes()
    inputs = interpreter.zero_inputs(Flatbuffer(data))
    with pytest.raises(ValueError, match="not compared"):
        measure_exactly(data, inputs)


@needs_tflm
def test_other_outputs_are_a_number_here_and_an_error_of_the_export():
    data = FILES["fixed_batch"]()
    inputs = interpreter.random_inputs(Flatbuffer(data), 3)
    doubled = Flatbuffer(data)
    weights = doubled.tensor(0, 1)
    doubled.write(0, 1, Constant(2 * weights.data, NO_SCALES, 0))

    same = measure(data, inputs)
    other = measure(data, inputs, reference=doubled.to_bytes())

    assert (same.num_samples, same.max_lsb) == (3, 0)
    # Floats too: a step is 1/255 of their range.
    assert other.max_lsb > 20
    assert not other.is_close
    with pytest.raises(ValueError, match="Do not ship this file"):
        measure_exactly(data, inputs, reference=doubled.to_bytes())


def test_steps_of_floats_are_parts_of_their_range():
    expected = np.array([0.0, 255.0], np.float32)

    assert largest_steps(expected + np.float32(0.5), expected) == 0
    assert largest_steps(expected - 7, expected) == 7
    assert largest_steps(np.full(2, np.nan), expected) == 2**31
    assert largest_steps(np.zeros((1, 0)), np.zeros((1, 0))) == 0


@needs_tflm
@pytest.mark.parametrize(
    "name",
    [
        *("scalar_input", "integer_batch_on_a_microcontroller", "no_input"),
        *("int4_weights", "empty_buffer_0"),
    ],
)
def test_what_the_wheel_runs_is_not_blocked(tmp_path, name):
    path = tmp_path / "model.tflite"
    path.write_bytes(FILES[name]())

    report = check(path, target="tflm")

    assert report.is_ok
    assert report.findings == ()


@needs_tflm
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("custom_operator", r"lack the custom operators \['MakersOwn'\]"),
        ("half_precision", "names no operator"),
        ("types_without_numpy", "names no operator"),
        ("sparse_floats", "read a sparse tensor as a dense one"),
    ],
)
def test_what_it_does_not_run_is_blocked(tmp_path, name, text):
    path = tmp_path / "model.tflite"
    path.write_bytes(FILES[name]())

    report = check(path, target="tflm")

    assert not report.is_ok
    assert re.search(text, str(report))


def test_int4_weights_of_several_scales_are_blocked(tmp_path):
    file = File()
    graph = file.graph()
    x = graph.tensor("x", "int8", quantization=scales([0.5], [0]))
    several = scales([0.1] * 4, [0] * 4)
    packed = np.zeros(16, np.uint8)
    w = graph.constant("w", packed, "int4", shape=(4, 8), quantization=several)
    y = graph.tensor("y", "int8", (1, 4), quantization=scales([1.0], [0]))
    graph.operator("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnected")
    graph.ends([x], [y])
    path = tmp_path / "model.tflite"
    path.write_bytes(file.to_bytes())

    assert "int4 weights of several scales" in str(check(path, target="tflm"))
