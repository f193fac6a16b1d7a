"""What may be imported, what it drags along, and that it is documented."""

import ast
import importlib
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import codeq_keras
import tflite_export

PACKAGES = ["codeq_keras", "tflite_export"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring(package):
    module = importlib.import_module(package)

    for name in module.__all__:
        assert getattr(module, name).__doc__, name


def test_importing_codeq_keras_has_no_side_effects():
    script = (
        "import os, sys; before = dict(os.environ); import keras; "
        "middle = dict(os.environ); import codeq_keras; "
        "assert dict(os.environ) == middle; "
        "bad = {'tensorflow_model_optimization', 'tf_keras', "
        "'tflite_export'} & set(sys.modules); "
        "assert not bad, bad; assert 'TF_USE_LEGACY_KERAS' not in os.environ"
    )

    # The doctests of the TFMOT plug-in may have set it in this process.
    clean = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=clean,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


FILE_SCRIPT = """
import sys
import tflite_export
assert "numpy" not in sys.modules, "import"

def require_no_keras(step):
    loaded = {"keras", "tensorflow", "codeq_keras"} & set(sys.modules)
    assert not loaded, (step, loaded)

from tflite_export.cli.commands import main
path = sys.argv[1]
benchmark = ["benchmark", path, "--target", "tflm"]
for step in ("inspect", "check", "benchmark", "register_target"):
    getattr(tflite_export, step)
    require_no_keras(step)
for arguments in (["inspect", path], ["check", path], benchmark):
    assert main(arguments) == 0
    require_no_keras(arguments)
try:
    main(["--help"])
except SystemExit as ended:
    assert ended.code == 0
require_no_keras("--help")
"""


def test_functions_and_commands_on_files_load_no_keras(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    path = tmp_path / "model.tflite"
    tflite_export.export(
        codeq_keras.quantize_model(model),
        path,
        representative_dataset=np.zeros((4, 4)),
    )

    done = subprocess.run(
        [sys.executable, "-c", FILE_SCRIPT, path],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_missing_backend_is_told_with_the_command(backend):
    script = f"import sys; sys.modules[{backend!r}] = None; import codeq_keras"

    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    )

    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        "ImportError: `import codeq_keras` needs Keras with a backend, here "
        f'{backend}. Install it: `pip install "codeq-keras[tensorflow]"` or '
        '`pip install "codeq-keras[jax]"`.'
    )


def modules_imported_by(package):
    """Pairs of source file and dotted name, from the syntax trees."""
    folder = pathlib.Path(importlib.import_module(package).__file__).parent
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield path, alias.name
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield path, f"{node.module}.{alias.name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_sources_import_public_keras_only(package):
    for path, name in modules_imported_by(package):
        parts = name.split(".")
        assert parts[:2] != ["keras", "src"], path
        assert parts[:2] != ["tensorflow", "keras"], path


def test_codeq_keras_never_imports_the_exporter():
    for path, name in modules_imported_by("codeq_keras"):
        assert name.split(".")[0] != "tflite_export", path
