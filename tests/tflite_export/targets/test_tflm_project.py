"""The project folder: names, contents, refusals; built in `test_tflm_build`."""

import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest

from tflite_export.exporting import checked_path, export
from tflite_export.files import write_atomically
from tflite_export.targets.target import find_target
from tflite_export.targets.tflm import source, vectors
from tflite_export.targets.tflm.project import (
    KINDS,
    MeasuredModel,
    project_files,
    require_replaceable,
)

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / "tflite_export" / "targets" / "tflm" / "templates"
kinds = pytest.mark.parametrize("kind", KINDS)
needs_tflm = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None,
    reason="LiteRT for Microcontrollers is not installed (extra `targets`).",
)


@pytest.fixture(scope="module")
def model(dense_path):
    samples = np.arange(8 * 192).reshape(8, 1, 8, 8, 3).astype(np.int8)
    outputs = np.arange(80).reshape(8, 1, 10).astype(np.int8)
    data = dense_path.read_bytes()
    return MeasuredModel("kws", data, 4000, [samples], [outputs])


def write(model, kind, folder):
    files = project_files(kind, model)
    contents = {folder / name: data for name, data in files.items()}
    write_atomically(contents, below=folder)
    return folder / model.stem


@kinds
def test_every_place_in_the_templates_is_filled(model, kind):
    for name, data in project_files(kind, model).items():
        assert b"@{" not in data, name
        assert "NAME" not in name


@kinds
def test_each_kind_has_the_files_that_its_system_reads(model, kind):
    written = set(project_files(kind, model))
    expected = {
        "cmake": ["CMakeLists.txt", "main.cc", "cortex-m.cmake"],
        "zephyr": ["CMakeLists.txt", "prj.conf", "sample.yaml", "src/main.cc"],
        "esp-idf": [
            "CMakeLists.txt",
            "main/main.cc",
            "components/kws_model/CMakeLists.txt",
            "components/kws_model/idf_component.yml",
        ],
    }[kind]
    expected += ["README.md", "SHA256SUMS"]
    assert {f"kws/{name}" for name in expected} <= written


def test_all_templates_are_in_the_package():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = table["tool"]["setuptools"]["package-data"]["tflite_export"]
    packed = {
        path
        for pattern in patterns
        for path in (ROOT / "tflite_export").glob(pattern)
    }
    assert {path for path in TEMPLATES.rglob("*") if path.is_file()} <= packed


def test_the_resolver_has_exactly_the_operators_of_the_file(model):
    text = project_files("cmake", model)["kws/kws_model.h"].decode()

    calls = set(re.findall(r"resolver\.(\w+)\(\)", text))
    assert calls == {
        "AddConv2D",
        "AddDepthwiseConv2D",
        "AddMean",
        "AddFullyConnected",
    }
    assert "kNumOperators = 4;" in text


def test_scales_in_the_header_are_those_of_the_file(model):
    text = project_files("cmake", model)["kws/kws_model.h"].decode()
    file = source.Flatbuffer(model.data)
    tensor = file.tensor(0, file.interface()[0][0])

    scale = re.search(r"kInput0Scale = (\S+)f;", text)[1]
    assert np.float32(scale) == np.float32(tensor.scales[0])
    assert f"kInput0ZeroPoint = {tensor.zero_points[0]};" in text
    assert "kInput0Size = 192;" in text
    assert "kTensorArenaSize = 5008;" in text  # 4000 * 1.25, in steps of 16.


def test_a_name_in_the_file_cannot_leave_its_comment():
    assert source.printable("a*/\n#define x \\") == "a?/??define x ?"


# Names of C and C++, of headers, and words that are no identifiers.
STEMS = ["string", "int", "8bit", "kws-v2", "KWS v2", "a..b", "häuser", "模型"]


@pytest.mark.parametrize("stem", STEMS)
def test_names_are_identifiers_of_their_own(stem):
    name = source.model_name(stem)
    assert re.fullmatch(r"[A-Za-z]\w*_model", name, flags=re.ASCII)
    assert "__" not in name


def test_headers_of_models_compile_together(model, tmp_path):
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("No C++ compiler.")
    names = [source.model_name(stem) for stem in STEMS]
    sources = []
    for name in names:
        text = source.header(model.data, name, arena_bytes=4000)
        (tmp_path / f"{name}.h").write_text(text)
        sources.append(tmp_path / f"{name}.cc")
        sources[-1].write_text(source.source(b"TFL3", name))
    includes = [f'#include "{name}.h"' for name in names]
    used = [f"{name}::kModel[0] == 'T'" for name in names]
    main = tmp_path / "main.cc"
    body = f"int main() {{ return {' && '.join(used)} ? 0 : 1; }}"
    main.write_text("\n".join(["#include <string.h>", *includes, body, ""]))

    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}"]
    program = tmp_path / "program"
    subprocess.run(
        [compiler, *flags, main, *sources, "-o", program], check=True
    )
    assert subprocess.run([program], check=False).returncode == 0


def test_vectors_that_devices_round_differently_are_refused():
    with pytest.raises(ValueError, match="Received: float32"):
        vectors.array("kInput0", np.zeros(2, np.float32))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_literals_give_the_values_again(dtype, tmp_path):
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("No C++ compiler.")
    limits = np.iinfo(dtype)
    values = np.array([limits.min, 0, limits.max], dtype)
    (tmp_path / "print.cc").write_text(
        "#include <cstdint>\n#include <cstdio>\n"
        f"{vectors.array('values', values)}\n"
        "int main() { fwrite(values, 1, sizeof(values), stdout); }\n"
    )
    program = tmp_path / "print"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(
        [compiler, *flags, tmp_path / "print.cc", "-o", program], check=True
    )
    printed = subprocess.run([program], check=True, capture_output=True).stdout
    np.testing.assert_array_equal(np.frombuffer(printed, dtype), values)


@kinds
def test_a_project_as_it_was_written_is_replaced_beside_other_files(
    model, kind, tmp_path
):
    folder = write(model, kind, tmp_path)
    (folder / "build").mkdir()
    (folder / "own.cc").write_text("// Mine.\n")

    require_replaceable(folder, kind)
    write(model._replace(arena_bytes=8000), kind, tmp_path)

    require_replaceable(folder, kind)
    assert (folder / "own.cc").read_text() == "// Mine.\n"


def test_a_changed_file_is_not_overwritten(model, tmp_path):
    folder = write(model, "cmake", tmp_path)
    (folder / "main.cc").write_text("// My firmware.\n")

    with pytest.raises(ValueError, match=r"'main\.cc', which was changed"):
        require_replaceable(folder, "cmake")


def test_folders_of_others_are_not_touched(model, tmp_path):
    folder = tmp_path / "kws"
    folder.mkdir()
    require_replaceable(folder, "cmake")
    (folder / "notes.txt").write_text("Mine.\n")
    with pytest.raises(ValueError, match=r"'notes\.txt', which no export"):
        require_replaceable(folder, "cmake")


def test_a_file_that_a_project_would_overwrite_is_kept(model, tmp_path):
    folder = write(model, "zephyr", tmp_path)
    sums = folder / "SHA256SUMS"
    lines = sums.read_text().splitlines(keepends=True)
    sums.write_text("".join(x for x in lines if "prj.conf" not in x))

    with pytest.raises(ValueError, match=r"'prj\.conf', which no export"):
        require_replaceable(folder, "zephyr")


def test_another_kind_of_project_is_not_mixed_in(model, tmp_path):
    folder = write(model, "zephyr", tmp_path)
    with pytest.raises(ValueError, match="of a project of another kind"):
        require_replaceable(folder, "cmake")


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "kws").write_text("")
    with pytest.raises(ValueError, match="which is a file"):
        require_replaceable(tmp_path / "kws", "cmake")


@pytest.mark.parametrize(
    ("target", "project", "text"),
    [
        ("litert", "cmake", r"one of \[None\]. Received: 'cmake'. Use `target"),
        ("tflm", "make", r"\[None, 'cmake', 'zephyr', 'esp-idf'\]"),
    ],
)
def test_projects_are_refused_by_name_before_the_work(
    target, project, text, tmp_path
):
    with pytest.raises(ValueError, match=text):
        export(
            keras.Sequential(),
            tmp_path / "kws.tflite",
            target=target,
            project=project,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_changed_project_is_refused_before_the_work(model, tmp_path):
    folder = write(model, "cmake", tmp_path)
    (folder / "main.cc").unlink()
    path = checked_path(tmp_path / "kws.tflite")
    find_target("tflm").require_project("cmake", path)
    (folder / "main.cc").write_text("")
    with pytest.raises(ValueError, match="which was changed"):
        export(keras.Sequential(), path, target="tflm", project="cmake")


@needs_tflm
def test_export_writes_a_project_with_the_outputs_of_the_runtime(export_for):
    result = export_for("tflm", project="cmake")

    folder = result.path.with_suffix("")
    written = {
        path.relative_to(folder).as_posix() for path in result.other_files
    }
    assert {"model.h", "model.cc", "model_test.cc", "CMakeLists.txt"} <= written
    assert all(path.is_file() for path in result.other_files)
    assert not (result.path.parent / "model.cc").exists()
    assert f"{folder}/, {len(written)} files" in str(result)
    text = (folder / "model_test.cc").read_text()
    assert "kNumSamples = 8;" in text
    outputs = re.search(r"kOutput0Samples\[\] = \{(.*?)\};", text, re.S)[1]
    assert len(set(outputs.split(","))) > 8
