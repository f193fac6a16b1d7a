"""Loads models and samples for the command line."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export.format.kinds import (
    KERAS,
    NPY,
    NPZ,
    ZIP,
    kind_at,
    wrong_kind,
)

if TYPE_CHECKING:
    import keras

_MODEL = "a .keras file, from `model.save`"
_SAMPLES = (
    "samples as an array in a .npy file, or arrays by input name in a .npz file"
)
# Keras stores weights uncompressed: an archive that unfolds more is an attack.
MAX_EXPANSION = 20
SMALL_BYTES = 64 * 2**20
# A model in memory, with its optimizer and copies while it is built, takes a
# few times its file. A configuration that claims more is an attack.
MEMORY_FACTOR = 16
SPARE_MEMORY_BYTES = 2 * 2**30


def load_keras_model(path: str | os.PathLike[str]) -> "keras.Model":
    """Loads a `.keras` file, quantized or not.

    On Linux, loading may take 2 GiB and 16 times the file of memory: a layer
    of the configuration may claim any size. Keras's safe mode does not run code
    in the file. A file that cannot be loaded like this is a `ValueError`.

    Example:

    >>> import tempfile
    >>> import keras
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.keras")
    ...     keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(
    ...         path
    ...     )
    ...     load_keras_model(path).input_shape
    (None, 2)
    """
    # The start-up notes of TensorFlow are not about this model; errors are.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Commands on files come here for samples only. A quantized model is known
    # to Keras when `codeq_keras` is imported.
    import keras

    import codeq_keras  # noqa: F401

    path = Path(path)
    _require_keras_file(path)
    limit = MEMORY_FACTOR * path.stat().st_size + SPARE_MEMORY_BYTES
    try:
        with _memory_limit(limit):
            return keras.saving.load_model(path, compile=False)
    except _loading_errors() as error:
        # Keras adds the whole config of the model to what it says.
        text = str(error).partition("Full object config")[0].strip(" .\n")
        raise ValueError(
            f"Expected a .keras file that Keras {keras.__version__} can load, "
            "with its custom classes imported. "
            f"Received: {str(path)!r}, {type(error).__name__}: {text}."
        ) from error


def load_samples(
    path: str | os.PathLike[str],
) -> np.ndarray | dict[str, np.ndarray]:
    """Loads an array (`.npy`) or arrays by input name (`.npz`), no objects."""
    path = Path(path)
    kind = kind_at(path)
    if kind not in (NPY, NPZ):
        raise wrong_kind(path, kind, _SAMPLES)
    import zipfile  # Slow to import, and a gate on bytes needs no samples.

    try:
        if kind == NPY:
            # Mapped: a header cannot claim more bytes than the file has.
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
            f"Expected {_SAMPLES}. Received: path={str(path)!r}, {error}."
        ) from error


def load_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """Loads the classes of samples (`.npy`)."""
    labels = load_samples(path)
    if isinstance(labels, dict):
        raise ValueError(
            "Expected labels as one array in a .npy file. Received: "
            f"{str(path)!r}, arrays {sorted(labels)}. Save the one of them."
        )
    return labels


@contextlib.contextmanager
def _memory_limit(num_bytes: int) -> Iterator[None]:
    """Limits the further address space of the process, if the system can."""
    statm = Path("/proc/self/statm")
    if not statm.exists():  # macOS, Windows
        yield
        return
    import resource

    held = int(statm.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = held + num_bytes
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _loading_errors() -> tuple[type[Exception], ...]:
    """The errors of Keras and its parts on damaged contents."""
    import zipfile

    errors = (
        zipfile.BadZipFile,
        MemoryError,
        ValueError,
        TypeError,
        KeyError,
        OSError,
        AttributeError,
        IndexError,
        RuntimeError,
    )
    # Without memory, TensorFlow raises an error of its own type.
    tensorflow: Any = sys.modules.get("tensorflow")
    return (
        errors if tensorflow is None else (*errors, tensorflow.errors.OpError)
    )


def _require_keras_file(path: Path) -> None:
    import zipfile

    kind = kind_at(path)
    is_named = path.suffix == ".keras"
    # An archive of that name may be a damaged model: Keras says what it lacks.
    if kind != KERAS and not (kind == ZIP and is_named):
        raise wrong_kind(path, kind, _MODEL)
    if not is_named:
        rename = kind._replace(remedy="Rename it to end in '.keras'.")
        raise wrong_kind(path, rename, _MODEL)
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
    if total > MAX_EXPANSION * size + SMALL_BYTES:
        raise ValueError(
            "Expected a .keras file that unfolds to about its size. Received: "
            f"{str(path)!r}, {size:,} bytes that claim to be {total:,}."
        )
