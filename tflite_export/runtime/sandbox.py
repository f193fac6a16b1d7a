"""Runs a script of this package on a file, in a child with limits.

Runtimes trust the files they load: a damaged one crashes them, or makes them
claim any amount of memory. From a child, both are only an error here.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Address space of the child: its libraries, the file and activations.
MEMORY_LIMIT_BYTES = 4 * 2**30
# Enough for 256 samples of the largest models that phones run.
TIME_LIMIT_S = 300.0
_MAX_ERROR = 400
_LAUNCHER = Path(__file__).with_name("sandbox_child.py")


def run_script(
    script: Path,
    file: bytes,
    arrays: Mapping[str, np.ndarray],
    request: Mapping[str, Any],
    *,
    time_limit_s: float = TIME_LIMIT_S,
    emulator: Sequence[str] = (),
) -> tuple[dict[str, np.ndarray], str]:
    """Runs a script that reads a file and arrays and writes arrays and a log.

    The script imports nothing of this package. It gets the path of a folder
    with `model.tflite`, `inputs.npz` and `request.json`, and leaves
    `outputs.npz` there. The words of `emulator` replace this Python. A script
    that fails or needs too much time or memory is a `ValueError`.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.tflite").write_bytes(file)
        np.savez(Path(folder, "inputs.npz"), **arrays)  # type: ignore[arg-type]
        num_bytes = len(file) + sum(array.nbytes for array in arrays.values())
        limits = {"memory_limit_bytes": MEMORY_LIMIT_BYTES + 8 * num_bytes}
        text = json.dumps({**request, **limits})
        Path(folder, "request.json").write_text(text)
        log = _run([str(script), folder, *emulator], time_limit_s)
        result = Path(folder, "outputs.npz")
        if not result.exists():
            raise _failure("no output")
        with np.load(result) as outputs:
            return dict(outputs), log


def _run(arguments: Sequence[str], time_limit_s: float) -> str:
    command = [sys.executable, str(_LAUNCHER), *arguments]
    try:
        child = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=time_limit_s,
            # Thread pools reserve memory for each core of a large machine.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _failure(f"no result in {time_limit_s:g} s") from error
    if child.returncode < 0:
        raise _failure(f"a crash of the runtime, signal {-child.returncode}")
    if child.returncode:
        lines = child.stderr.strip().splitlines() or ["no message"]
        raise _failure(lines[-1][:_MAX_ERROR])
    return f"{child.stdout}\n{child.stderr}"


def _failure(received: str) -> ValueError:
    return ValueError(
        "Expected a file that the runtime can run. Received: "
        f"{received.rstrip(' .')}."
    )
