"""Runs a file for microcontrollers; a script for `sandbox.py`."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def run(folder: Path, request: dict[str, Any]) -> dict[str, np.ndarray]:
    """Runs the file run by run; the log has the used bytes of the arena."""
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(
        (folder / "model.tflite").read_bytes(),
        arena_size=request["arena_bytes"],
    )
    inputs = np.load(folder / "inputs.npz")
    columns = [(int(name), inputs[name]) for name in inputs.files]
    runs: list[list[np.ndarray]] = [[] for _ in range(request["num_outputs"])]
    for run in range(len(columns[0][1]) if columns else 1):
        for position, values in columns:
            interpreter.set_input(values[run], position)
        interpreter.invoke()
        for position, values in enumerate(runs):
            values.append(interpreter.get_output(position))
    interpreter.print_allocations()
    return {str(i): np.stack(values) for i, values in enumerate(runs)}


def main(folder: Path) -> None:
    """Runs the request and writes the outputs."""
    request = json.loads((folder / "request.json").read_text())
    outputs: dict[str, Any] = run(folder, request)
    np.savez(folder / "outputs.npz", **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
