"""Marks each inference for the instruction counter; the child of `sandbox.py`.

It runs on the emulated CPU, where an import of the package would take minutes.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

MARKER = 0x7FF0  # As in instruction_counter.c.


def mark() -> None:
    """Makes the counter write the instructions so far."""
    try:
        os.getpgid(MARKER)
    except ProcessLookupError:
        pass


def main(folder: Path) -> None:
    """Sets pairs of marks: first with nothing between, then an inference."""
    request = json.loads((folder / "request.json").read_text())
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(
        model_path=str(folder / "model.tflite"), num_threads=1
    )
    interpreter.allocate_tensors()
    inputs = np.load(folder / "inputs.npz")
    for name in inputs.files:
        interpreter.set_tensor(int(name), inputs[name][0])
    # The first inference allocates and packs.
    interpreter.invoke()

    def nothing() -> None:
        pass

    for function in (nothing, interpreter.invoke):
        for _ in range(request["num_repeats"]):
            mark()
            function()
            mark()
    np.savez(folder / "outputs.npz")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
