"""Loads the models and samples that the command line is given."""

import os
import zipfile
from pathlib import Path

import keras
import numpy as np

# Keras stores weights uncompressed; what unfolds this much is an attack.
MAX_EXPANSION = 20
SMALL_BYTES = 64 * 2**20


def load_keras_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a `.keras` file, quantized or not.

    Args:
        path: The file. Code in it is not run (Keras's safe mode).

    Returns:
        The model.

    Raises:
        ValueError: If the file is none, or is damaged.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.keras")
    ...     keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(
    ...         path
    ...     )
    ...     load_keras_model(path).input_shape
    (None, 2)
    """
    path = Path(path)
    _require_keras_file(path)
    try:
        return keras.saving.load_model(path, compile=False)
    # Keras raises whatever its parts raise on damaged contents.
    except (
        zipfile.BadZipFile,
        ValueError,
        TypeError,
        KeyError,
        OSError,
        AttributeError,
        IndexError,
        RuntimeError,
    ) as error:
        raise ValueError(
            f"Expected a .keras file that Keras {keras.__version__} can load, "
            "and whose own classes are imported. "
            f"Received: {str(path)!r}, {type(error).__name__}: {error}"
        ) from error


def load_samples(
    path: str | os.PathLike[str],
) -> np.ndarray | dict[str, np.ndarray]:
    """Loads an array (`.npy`) or arrays by input name (`.npz`).

    Args:
        path: The file; pickled objects are refused.

    Raises:
        ValueError: If the file is none of the two.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            # Mapped: a header cannot claim more than the file has.
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (
        zipfile.BadZipFile,
        ValueError,
        EOFError,
        TypeError,
        AttributeError,
    ) as error:
        raise ValueError(
            "Samples must be an array in a .npy file, or arrays by input name "
            f"in a .npz file. Received: {str(path)!r}, {error}"
        ) from error


def _require_keras_file(path: Path) -> None:
    if path.suffix != ".keras":
        raise ValueError(
            "A model must be a file that ends in '.keras', from "
            f"`model.save`. Received: {str(path)!r}."
        )
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"Expected a .keras file, which is a zip archive. Received: "
            f"{str(path)!r}, {error}."
        ) from error
    if total > MAX_EXPANSION * size + SMALL_BYTES:
        raise ValueError(
            "Expected a .keras file that unfolds to about its size. Received: "
            f"{str(path)!r}, {size:,} bytes that claim to be {total:,}."
        )
