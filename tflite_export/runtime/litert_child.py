"""Runs a `.tflite` file with LiteRT, row by row; the child of `sandbox.py`.

It imports nothing of the package, since that would take seconds.
"""

import json
import sys
from pathlib import Path

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
    num_rows = len(columns[0][1]) if columns else 1
    rows: dict[str, list[np.ndarray]] = {str(i): [] for i in request["outputs"]}
    for row in range(num_rows):
        for index, values in columns:
            interpreter.set_tensor(index, values[row : row + 1])
        interpreter.invoke()
        for index in request["outputs"]:
            rows[str(index)].append(interpreter.get_tensor(index))
    stacked = {name: np.concatenate(values) for name, values in rows.items()}
    np.savez(folder / "outputs.npz", **stacked)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
