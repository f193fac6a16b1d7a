"""The record that an exported file carries of its trained weights."""

import json
from collections.abc import Mapping
from typing import Any

from tflite_export.format.flatbuffer import Flatbuffer

METADATA_NAME = "codeq_keras"


def write_record(
    file: Flatbuffer,
    target: str,
    origin: str,
    silent_channels: Mapping[str, int],
) -> None:
    """Says who wrote the file, in place of what the converter says of itself.

    `origin` is that of `TrainedModel`. No date, path or name of a machine: the
    same model makes the same file. A record of silent channels follows if there
    are any. No runtime reads the converter's records, and its least version
    does not know our operators.
    """
    file.describe(f"codeq-keras {_version()} for {target}; {origin}")
    _write_silent_channels(file, silent_channels)


def copy_record(file: Flatbuffer, source: Flatbuffer) -> None:
    """Writes the record of another file of the same model."""
    file.describe(source.description)
    _write_silent_channels(file, read_silent_channels(source))


def _write_silent_channels(
    file: Flatbuffer, silent_channels: Mapping[str, int]
) -> None:
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
    # Reading a file needs none, and it is slow to import.
    import importlib.metadata

    try:
        return importlib.metadata.version("codeq-keras")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
