"""What importing sets in motion, seen from a process of its own."""

import os
import subprocess
import sys


def run(code, **environment):
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={
            **{k: v for k, v in os.environ.items() if k[:8] != "TF_USE_L"},
            **environment,
        },
    )
    return process.stdout.strip(), process.stderr


def test_codeq_keras_alone_never_switches_to_legacy_keras():
    code = (
        "import os, sys, codeq_keras, tflite_export; "
        "print('TF_USE_LEGACY_KERAS' in os.environ, 'tf_keras' in sys.modules,"
        " 'tensorflow_model_optimization' in sys.modules)"
    )

    assert run(code)[0] == "False False False"


def test_keras_stays_keras_3_next_to_tfmot():
    code = (
        "import codeq_keras.tfmot, keras, os; "
        "print(keras.__version__[0], os.environ['TF_USE_LEGACY_KERAS'])"
    )

    assert run(code)[0] == "3 1"


def test_another_backend_is_refused_with_the_remedy():
    _, error = run("import codeq_keras.tfmot", KERAS_BACKEND="jax")

    assert "Set KERAS_BACKEND=tensorflow" in error
