"""Runs a `.tflite` file with LiteRT, run by run; the child of `sandbox.py`.

It imports nothing of the package, since that would take seconds.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: Path) -> None:
    """Reads the request, runs the file and writes the outputs."""
    request = json.loads((folder / "request.json").read_text())
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.AUTO
    if request["reference_kernels"]:
        resolver = OpResolverType.BUILTIN_REF
    elif request["keep_all_tensors"]:
        # A delegate keeps no tensor but its outputs.
        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(
        model_path=str(folder / "model.tflite"),
        experimental_op_resolver_type=resolver,
        num_threads=1,
        experimental_preserve_all_tensors=request["keep_all_tensors"],
    )
    interpreter.allocate_tensors()
    inputs = np.load(folder / "inputs.npz")
    columns = [(int(name), inputs[name]) for name in inputs.files]
    runs: dict[str, list[np.ndarray]] = {str(i): [] for i in request["outputs"]}
    for run in range(len(columns[0][1]) if columns else 1):
        for index, values in columns:
            interpreter.set_tensor(index, values[run])
        interpreter.invoke()
        for index in request["outputs"]:
            runs[str(index)].append(_tensor(interpreter, index))
    stacked = {name: np.stack(values) for name, values in runs.items()}
    np.savez(folder / "outputs.npz", **stacked)


def _tensor(interpreter: Any, index: int) -> np.ndarray:
    """A tensor's values; LiteRT gives none out if a run made it empty."""
    try:
        return np.asarray(interpreter.get_tensor(index))
    except ValueError:
        # Only now: the details are those of all tensors.
        (found,) = (
            details
            for details in interpreter.get_tensor_details()
            if details["index"] == index
        )
        if 0 not in found["shape"]:
            raise
        return np.zeros(found["shape"], found["dtype"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
