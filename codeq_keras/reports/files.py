"""write_whole: a file appears whole or not at all."""

import os
import pathlib
from collections.abc import Callable


def write_whole(
    path: pathlib.Path, write: Callable[[pathlib.Path], object]
) -> None:
    """Writes a file under another name in its folder, then moves it."""
    partial = path.with_name(f"partial_{path.name}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
