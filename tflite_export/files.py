"""Writes files as a whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path


def write_atomically(contents: Mapping[Path, bytes]) -> None:
    """Writes files; a reader finds an old or a new one, never a part of one.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.tflite")
    ...     write_atomically({path: b"TFL3"})
    ...     path.read_bytes(), len(list(path.parent.iterdir()))
    (b'TFL3', 1)
    """
    temporary = {
        path: path.with_name(f".{path.name}.{os.getpid()}.tmp")
        for path in contents
    }
    try:
        for path, data in contents.items():
            temporary[path].write_bytes(data)
        for path in contents:
            os.replace(temporary[path], path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
