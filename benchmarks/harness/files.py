"""Files in memory."""

import tempfile
from pathlib import Path
from typing import Any


def to_bytes(export: Any, *arguments: Any, **options: Any) -> tuple[bytes, Any]:
    """Returns the file that an export writes, and its result."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        result = export(*arguments, path, **options)
        return path.read_bytes(), result
