"""The wheel alone: what works without an extra, and what an error says."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile

import keras
import numpy as np
import pytest
import yaml

import codeq_keras
import tflite_export

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = ("codeq_keras", "tflite_export", "pyproject.toml", "README.md")
# What the extra `export` installs, without TensorFlow, and what that imports.
FILE_PACKAGES = (
    "zstandard",
    "numpy",
    "numpy.libs",
    "flatbuffers",
    "ai_edge_litert",
)
TERMINAL_PACKAGES = ("rich", "pygments", "markdown_it", "mdurl")
COMMANDS = {
    "export": ("model.keras", "model.tflite"),
    "inspect": ("model.tflite",),
    "verify": ("model.tflite", "model.keras"),
    "check": ("model.tflite",),
    "benchmark": ("model.tflite",),
    "gate": ("model.tflite", "--max-bytes", "100k"),
}


def run(*words, cwd):
    """Runs a command that sees its own environment only."""
    # PYTHONPATH would show it the sources.
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    # Emulated phones take their time; tests/tflite_export/arm has them.
    environment["TFLITE_EXPORT_ARM_ROOT"] = str(cwd)
    return subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in (*SOURCES, "LICENSE"):
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    done = run(*pip, "wheel", "--no-deps", source, cwd=folder)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_and_source_archive_are_fit_for_an_index(wheel, tmp_path):
    source = wheel.parent / "source"
    build = ("-m", "build", "--sdist", "--outdir", tmp_path, source)
    done = run(sys.executable, *build, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")

    check = ("-m", "twine", "check", "--strict", wheel, archive)
    done = run(sys.executable, *check, cwd=tmp_path)

    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cited["version"] == project["version"]
    assert cited["license"] == project["license"]
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()
    (paper,) = (each["url"] for each in cited["references"])
    assert paper == project["urls"]["Paper"]


def make_environment(folder, wheel):
    """A virtual environment with the wheel and nothing else."""
    venv.create(folder, with_pip=False, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    install = ("install", "--no-deps", "--no-index", wheel)
    python = folder / "bin" / "python"
    done = run(*pip, "--python", python, *install, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    return make_environment(tmp_path_factory.mktemp("bare"), wheel)


@pytest.fixture(scope="module")
def without_keras(wheel, tmp_path_factory):
    """The wheel and the packages that read files, linked from here."""
    binaries = make_environment(tmp_path_factory.mktemp("files"), wheel)
    (packages,) = binaries.parent.glob("lib/python*/site-packages")
    for name in (*FILE_PACKAGES, *TERMINAL_PACKAGES):
        spec = importlib.util.find_spec(name.partition(".")[0])
        here = pathlib.Path(spec.origin).parents[1]
        if (here / name).exists():
            (packages / name).symlink_to(here / name)
    return binaries


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    path = tmp_path_factory.mktemp("file") / "model.tflite"
    samples = np.random.default_rng(0).normal(size=(16, 4))
    tflite_export.export(
        codeq_keras.quantize_model(model), path, representative_dataset=samples
    )
    return path


def test_wheel_holds_the_files_that_are_no_modules(bare):
    (packages,) = bare.parent.glob("lib/python*/site-packages")

    for name in (
        "codeq_keras/py.typed",
        "tflite_export/py.typed",
        "tflite_export/arm/instruction_counter.c",
    ):
        assert (packages / name).exists(), name
    held = {p.relative_to(packages) for p in packages.rglob("*.py")}
    for package in ("codeq_keras", "tflite_export"):
        for path in (ROOT / package).rglob("*.py"):
            assert path.relative_to(ROOT) in held


def test_exporter_is_imported_without_any_package(bare, tmp_path):
    done = run(bare / "python", "-c", "import tflite_export", cwd=tmp_path)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_needs_no_package(bare, tmp_path, command):
    done = run(bare / "tflite-export", *command, "--help", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "usage: tflite-export" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_command_names_the_extra_in_one_line(bare, tmp_path, command):
    # `check` tells a file from a model by its first bytes.
    (tmp_path / "model.tflite").write_bytes(b"\x1c\0\0\0TFL3")

    done = run(
        bare / "tflite-export", command, *COMMANDS[command], cwd=tmp_path
    )

    assert done.returncode == 3
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: `tflite-export {command}` needs")
    assert '`pip install "codeq-keras[export]"`' in line


@pytest.mark.parametrize("name", ["inspect", "export", "ExportResult"])
def test_public_name_names_the_extra(bare, tmp_path, name):
    script = f"from tflite_export import {name}"

    done = run(bare / "python", "-c", script, cwd=tmp_path)

    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"ImportError: `tflite_export.{name}` needs")
    assert '`pip install "codeq-keras[export]"`' in line


def test_training_package_names_the_extra(bare, tmp_path):
    done = run(bare / "python", "-c", "import codeq_keras", cwd=tmp_path)

    line = done.stderr.splitlines()[-1]
    assert line.startswith("ImportError: ")
    assert "pip install" in line
    assert "codeq-keras" in line


def test_commands_on_a_file_need_no_keras(without_keras, file, tmp_path):
    command = without_keras / "tflite-export"

    shown = run(command, "inspect", file, cwd=tmp_path)
    checked = run(command, "check", file, cwd=tmp_path)
    measured = run(command, "benchmark", file, cwd=tmp_path)

    assert shown.returncode == 0, shown.stderr
    assert "FULLY_CONNECTED" in shown.stdout
    assert checked.returncode == 0, checked.stderr
    assert "litert: ok" in checked.stdout
    assert measured.returncode == 0, measured.stderr
    assert "median us" in measured.stdout
    # One device without its package leaves the others measured.
    assert "not run on tflm: all files: The target 'tflm'" in measured.stdout


def test_commands_on_a_model_name_what_is_missing(without_keras, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, "{}")

    done = run(
        *(without_keras / "tflite-export", "check", "model.keras"), cwd=tmp_path
    )

    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert "Received: no package `keras`, `tensorflow`." in line


def test_target_names_its_extra(without_keras, file, tmp_path):
    arguments = ("check", file, "--target", "tflm")

    done = run(without_keras / "tflite-export", *arguments, cwd=tmp_path)

    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert '`pip install "codeq-keras[targets]"`' in line
