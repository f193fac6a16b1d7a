"""Writes files as a whole or not at all."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path


def require_writable(path: str | os.PathLike[str]) -> None:
    """Raises a ValueError unless a file can be written there, before the work.

    Example:

    >>> require_writable(".")
    Traceback (most recent call last):
    ...
    ValueError: `path` must be the name of a file. Received: path='.', a \
folder. Name a file in it.
    """
    parent = Path(path).parent
    if Path(path).is_dir():
        raise ValueError(
            "`path` must be the name of a file. Received: "
            f"path={str(path)!r}, a folder. Name a file in it."
        )
    if not parent.is_dir():
        raise ValueError(
            f"`path` must be in an existing folder. Received: "
            f"path={str(path)!r}. Create {str(parent)!r} first."
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(
            f"`path` must be in a folder that can be written. Received: "
            f"path={str(path)!r}. Choose another folder."
        )


def write_atomically(
    contents: Mapping[Path, bytes], *, below: Path | None = None
) -> None:
    """Writes files; a reader finds an old or a new one, never a part of one.

    Missing folders are made in the folder `below`, and only there; they are
    gone again if a file cannot be written.

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
    made = _missing_folders(contents, below)
    for path in contents:
        if path.parent not in made:
            require_writable(path)
    try:
        for folder in made:
            folder.mkdir()
        for path, data in contents.items():
            temporary[path].write_bytes(data)
        for path in contents:
            os.replace(temporary[path], path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
        for folder in reversed(made):
            # One that was filled stays.
            with contextlib.suppress(OSError):
                folder.rmdir()


def _missing_folders(paths: Iterable[Path], below: Path | None) -> list[Path]:
    """The folders of files below one that do not exist, outer ones first."""
    missing = {
        folder
        for path in paths
        for folder in path.parents
        if below in folder.parents and not folder.exists()
    }
    return sorted(missing)
