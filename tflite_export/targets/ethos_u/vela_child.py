"""Compiles a file with Vela; a script that `sandbox.py` runs in a child."""

import json
import sys
from pathlib import Path

import numpy as np


def main(folder: Path) -> None:
    """Reads the request, compiles the file and writes the results."""
    from ethosu.vela import vela

    request = json.loads((folder / "request.json").read_text())
    target = folder / "vela"
    arguments = [str(folder / "model.tflite"), "--output-dir", str(target)]
    vela.main([*arguments, *request["arguments"]])
    (summary,) = target.glob("*_summary_*.csv")
    (compiled,) = target.glob("*_vela.tflite")
    np.savez(
        folder / "outputs.npz",
        summary=np.frombuffer(summary.read_bytes(), np.uint8),
        compiled=np.frombuffer(compiled.read_bytes(), np.uint8),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
