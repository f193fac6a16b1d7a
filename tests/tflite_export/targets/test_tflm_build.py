"""Projects for microcontrollers, built and run: on the host and under QEMU.

`TFLM_ROOT` names a clone of tflite-micro with its third-party sources, see
docs/microcontroller.md. `TFLM_LIBRARY` names a library for the host that was
built of it, and `ccache` keeps what was compiled: each saves minutes.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from support.plain import export_plain

pytest.importorskip(
    "tflite_micro",
    reason="LiteRT for Microcontrollers is not installed (extra `targets`).",
)
pytestmark = pytest.mark.slow

FIRMWARE = """
cmake_minimum_required(VERSION 3.24)
project(firmware LANGUAGES C CXX)
add_subdirectory(first)
add_subdirectory(second-model)
add_executable(firmware main.cc)
target_link_libraries(firmware PRIVATE first_model second_model_model)
"""
MAIN = """
#include "first_model_test.h"
#include "second_model_model_test.h"
int main() {
  const bool first = first_model::RunTest();
  const bool second = second_model_model::RunTest();
  return first && second ? 0 : 1;
}
"""
RELEASE = "-DCMAKE_BUILD_TYPE=Release"
# On our files: TFLM is compiled without warnings.
STRICT = "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON"


def need(*programs):
    root = os.environ.get("TFLM_ROOT")
    if not root:
        pytest.skip("TFLM_ROOT does not name a clone of tflite-micro.")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed.")


def run(*command, check=True):
    return subprocess.run(
        [str(part) for part in command],
        check=check,
        capture_output=True,
        text=True,
        timeout=1800,
    )


def configure(source, build, *options):
    launcher = ()
    if shutil.which("ccache"):
        launcher = [
            f"-DCMAKE_{language}_COMPILER_LAUNCHER=ccache"
            for language in ("C", "CXX")
        ]
    run(
        "cmake", "-S", source, "-B", build, RELEASE, STRICT, *launcher, *options
    )


@pytest.fixture(scope="module")
def folder(sparse_convolutions, grid, tmp_path_factory):
    """A model with Huffman codes, and one with two inputs and two outputs."""
    need()
    folder = tmp_path_factory.mktemp("projects")
    rng = np.random.default_rng(0)
    model, trained = sparse_convolutions
    export_plain(
        model,
        trained,
        folder / "first.tflite",
        target="tflm",
        weight_storage="huffman",
        project="cmake",
        representative_dataset=rng.normal(size=(32, 8, 8, 3)),
    )
    image = keras.Input((6, 6, 2), name="image")
    sensor = keras.Input((4,), name="sensor")
    x = layers.Conv2D(8, 3, activation="relu")(image)
    x = layers.DepthwiseConv2D(3)(x)
    x = layers.Concatenate()([layers.Flatten()(x), layers.Dense(6)(sensor)])
    model = keras.Model([image, sensor], [layers.Dense(5)(x), layers.ReLU()(x)])
    export_plain(
        model,
        grid(model, rng),
        folder / "second-model.tflite",
        target="tflm",
        project="cmake",
        representative_dataset={
            "image": rng.normal(size=(32, 6, 6, 2)),
            "sensor": rng.normal(size=(32, 4)),
        },
    )
    (folder / "CMakeLists.txt").write_text(FIRMWARE)
    (folder / "main.cc").write_text(MAIN)
    return folder


@pytest.fixture(scope="module")
def host_build(folder):
    need("cmake", "c++")
    build = folder / "build"
    configure(folder, build)
    run("cmake", "--build", build, "--parallel", "2")
    return build


def test_two_models_in_one_program_pass_on_the_host(host_build):
    printed = run(host_build / "firmware").stdout

    assert "first_model: PASS, 8 samples equal" in printed
    assert "second_model_model: PASS, 8 samples equal" in printed
    for used, size in re.findall(r"(\d+) of (\d+) bytes of the arena", printed):
        # At least a fifth of the arena is margin, and it is in steps of 16.
        assert 0 < int(used) <= 0.8 * int(size) + 16


@pytest.mark.parametrize(
    ("name", "marks", "printed"),
    [
        # Samples do not see each byte: the sums of blocks do.
        ("first_model.cc", "kModel[] = {", r"bytes 0 to 1023 of the model"),
        (
            "first_model_test.cc",
            "kOutput0Samples[] = {",
            r"sample 0, output 0, value 0: expected -?\d+, received -?\d+",
        ),
    ],
    ids=["byte of the model", "expected output"],
)
def test_a_changed_byte_prints_the_first_difference(
    folder, host_build, name, marks, printed
):
    source = folder / "first" / name
    text = source.read_text()
    # The first number after the opening of the array, and another one.
    start = text.index(marks) + len(marks)
    source.write_text(text[:start] + " 1 +" + text[start:])
    try:
        run("cmake", "--build", host_build, "--parallel", "2")
        ended = run(host_build / "firmware", check=False)
    finally:
        source.write_text(text)

    assert ended.returncode == 1
    assert re.search(f"first_model: FAIL: {printed}", ended.stdout)
    assert "second_model_model: PASS" in ended.stdout


def test_a_tflm_without_an_operator_is_refused_by_its_name(folder, tmp_path):
    need("cmake", "c++")
    root = Path(os.environ["TFLM_ROOT"])
    resolver = "tensorflow/lite/micro/micro_mutable_op_resolver.h"
    old = tmp_path / resolver
    old.parent.mkdir(parents=True)
    text = (root / resolver).read_text()
    old.write_text(text.replace("AddDecode(", "AddOther("))
    downloads = "tensorflow/lite/micro/tools/make/downloads"
    (tmp_path / downloads).parent.mkdir(parents=True)
    (tmp_path / downloads).symlink_to(root / downloads)
    library = tmp_path / "libtflm.a"
    library.touch()

    ended = run(
        *("cmake", "-S", folder / "first", "-B", tmp_path / "build"),
        *(f"-DTFLM_ROOT={tmp_path}", f"-DTFLM_LIBRARY={library}"),
        check=False,
    )

    assert ended.returncode == 1
    assert "without AddDecode()" in " ".join(ended.stderr.split())


@pytest.mark.parametrize(
    ("cpu", "board", "options"),
    [
        ("cortex-m3", "mps2-an385", ()),
        ("cortex-m4", "mps2-an386", ("-DCMSIS_NN=ON",)),
    ],
)
def test_a_model_passes_on_an_emulated_cortex_m(
    folder, cpu, board, options, tmp_path
):
    need("cmake", "arm-none-eabi-g++", "qemu-system-arm")
    configure(
        *(folder / "first", tmp_path),
        f"-DCMAKE_TOOLCHAIN_FILE={folder / 'first' / 'cortex-m.cmake'}",
        *(f"-DCPU={cpu}", "-DTFLM_LIBRARY=", *options),
    )
    built = run("cmake", "--build", tmp_path, "--parallel", "2")
    program = tmp_path / "run_test"
    ended = run(
        *("qemu-system-arm", "-M", board, "-nographic", "-semihosting"),
        *("-kernel", program),
    )

    assert "first_model: PASS, 8 samples equal" in ended.stdout
    used = dict(re.findall(r"(FLASH|RAM):\s+(\d+) B", built.stdout))
    model = (folder / "first.tflite").stat().st_size
    # The model and its code, in what the smallest boards for it have.
    assert model < int(used["FLASH"]) < model + 256 * 1024
    assert int(used["RAM"]) < 64 * 1024
