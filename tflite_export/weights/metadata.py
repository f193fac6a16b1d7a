"""The record that an exported file carries of its trained weights."""

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from tflite_export.format.flatbuffer import Flatbuffer

METADATA_NAME = "codeq_keras"


def write_record(file: Flatbuffer, silent_channels: Mapping[str, int]) -> None:
    """Says who wrote the file, in place of what the converter says of itself.

    A record of silent channels follows if there are any. No runtime reads the
    converter's records, and its least version does not know our operators.
    """
    file.describe(f"codeq-keras {_version()}")
    if any(silent_channels.values()):
        text = json.dumps(dict(silent_channels), separators=(",", ":"))
        file.set_metadata(METADATA_NAME, text.encode())


def read_silent_channels(file: Flatbuffer) -> dict[str, int]:
    """Returns the number of channels that a gain of zero removed, by path.

    Older files list all weights, with their bits and zeros.
    """
    data = file.metadata(METADATA_NAME)
    if not data:
        return {}
    try:
        record: Any = json.loads(data)
        if "weights" in record and not isinstance(record["weights"], int):
            record = {
                weight["path"]: weight["silent_channels"]
                for weight in record["weights"]
            }
        return {str(path): int(number) for path, number in record.items()}
    except (
        *(ValueError, KeyError, TypeError),
        *(AttributeError, RecursionError),
    ) as error:
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
