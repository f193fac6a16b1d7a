"""Times files in turn, in one process; a script that `sandbox.py` runs.

It imports nothing of the package, since that would take seconds.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: Path) -> None:
    """Reads the request, times the files and writes the times."""
    request = json.loads((folder / "request.json").read_text())
    if request["cpus"]:
        os.sched_setaffinity(0, request["cpus"])
    arrays = np.load(folder / "inputs.npz")
    interpreters = [
        _interpreter(arrays, position, request)
        for position in range(request["num_files"])
    ]
    for interpreter in interpreters * request["num_warmup_runs"]:
        interpreter.invoke()
    rounds: list[list[int]] = []
    end = time.monotonic() + request["min_seconds"]
    while len(rounds) < request["min_runs"] or (
        time.monotonic() < end and len(rounds) < request["max_runs"]
    ):
        rounds.append(_round(interpreters, first=len(rounds)))
    times = np.array(rounds, np.int64).T
    np.savez(folder / "outputs.npz", nanoseconds=times)


def _interpreter(arrays: Any, position: int, request: dict[str, Any]) -> Any:
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    delegates = None
    if request["delegate"]:
        delegates = [load_delegate(request["delegate"])]
    interpreter = Interpreter(
        model_content=arrays[f"file_{position}"].tobytes(),
        num_threads=request["num_threads"],
        experimental_delegates=delegates,
    )
    interpreter.allocate_tensors()
    prefix = f"input_{position}_"
    for name in arrays.files:
        if name.startswith(prefix):
            index = int(name.removeprefix(prefix))
            interpreter.set_tensor(index, arrays[name][0])
    return interpreter


def _round(interpreters: list[Any], *, first: int) -> list[int]:
    """Runs each once; the first rotates: none always follows the slowest."""
    times = [0] * len(interpreters)
    for step in range(len(interpreters)):
        position = (first + step) % len(interpreters)
        start = time.perf_counter_ns()
        interpreters[position].invoke()
        times[position] = time.perf_counter_ns() - start
    return times


if __name__ == "__main__":
    main(Path(sys.argv[1]))
