"""The record that an exported file carries of its trained weights."""

import importlib.metadata
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer

if TYPE_CHECKING:
    from codeq_keras import QuantizedWeight

METADATA_NAME = "codeq_keras"


def write_record(
    file: Flatbuffer,
    weights: "Mapping[str, QuantizedWeight]",
    silent_channels: Mapping[str, int],
) -> None:
    """Adds bits, sparsity and silent channels of each weight to the file."""
    record = {
        "library": "codeq-keras",
        "version": _version(),
        "weights": [
            {
                "path": path,
                "bit_width": int(weight.bit_width),
                "sparsity": round(float(np.mean(weight.codes == 0)), 6),
                "silent_channels": silent_channels.get(path, 0),
            }
            for path, weight in weights.items()
        ],
    }
    text = json.dumps(record, separators=(",", ":"))
    file.set_metadata(METADATA_NAME, text.encode())


def read_silent_channels(file: Flatbuffer) -> dict[str, int]:
    """Returns the number of channels that a gain of zero removed, by path."""
    data = file.metadata(METADATA_NAME)
    if not data:
        return {}
    try:
        weights: list[Any] = json.loads(data)["weights"]
        return {
            str(weight["path"]): int(weight["silent_channels"])
            for weight in weights
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"Expected the exporter's record in the metadata {METADATA_NAME!r} "
            f"of the file. Received: {bytes(data[:40])!r} ({error!r}). Is the "
            "file damaged?"
        ) from error


def _version() -> str:
    try:
        return importlib.metadata.version("codeq-keras")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
