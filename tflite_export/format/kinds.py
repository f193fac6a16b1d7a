"""Reads files, and says of others by their bytes of which kind they are."""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

FILE_IDENTIFIER = b"TFL3"


class Kind(NamedTuple):
    """A kind of file: its name in texts, and the way to a file of use here."""

    name: str
    remedy: str


KERAS = Kind(
    "a Keras model",
    "Load it with `keras.saving.load_model`; `check` takes the model, and "
    "`export` makes a .tflite file of it.",
)
TFLITE = Kind("a .tflite file", "Give the model that it was made from.")
NPY = Kind("an array of NumPy (.npy)", "It is for `--samples`.")
NPZ = Kind("arrays of NumPy (.npz)", "They are for `--samples`.")
EMPTY = Kind("an empty file", "Write or download it again.")
_FOLDER = Kind("a folder", "Give the file itself.")
_SAVED_MODEL = Kind(
    "a SavedModel",
    "It has no layers of Keras: save the model with "
    "`model.save('model.keras')`. `tf.lite.TFLiteConverter.from_saved_model` "
    "makes a .tflite file of it as it is.",
)
_HDF5 = Kind(
    "a model in HDF5 (.h5)",
    "Load it with `keras.saving.load_model`, from a name that ends in '.h5', "
    "and save it with `model.save('model.keras')`.",
)
_HDF5_WEIGHTS = Kind(
    "HDF5 without a model, such as weights alone",
    "Build the model, load them with `model.load_weights`, and save it with "
    "`model.save('model.keras')`.",
)
_PYTORCH = Kind(
    "a file of PyTorch", "Convert it first, for example with LiteRT Torch."
)
_PICKLE = Kind(
    "a pickle of Python",
    "Load it where it was made. If it is a model of PyTorch, convert it "
    "there, for example with LiteRT Torch.",
)
ZIP = Kind("a zip archive", "Unpack it, and give the file in it.")
_GZIP = Kind("a file packed by gzip", "Unpack it with `gunzip` or `tar -xzf`.")
_ONNX = Kind("an ONNX model", "Convert it first, for example with onnx2tf.")
_GIT_LFS = Kind(
    "a Git LFS pointer, which only says where the file is",
    "Fetch the file itself with `git lfs pull`.",
)
_HTML = Kind(
    "a web page, such as the error of a download",
    "Download the file again, from the address of its raw contents.",
)
_IMAGE = Kind("an image", "Load the images into an array of shape (n, ...).")
_JSON = Kind("JSON", "It holds no weights: give the model that it describes.")
_TABLE = Kind(
    "a table as text (.csv)",
    "Load it with `numpy.loadtxt`, and save the array with `numpy.save`.",
)

_STARTS = (
    (b"\x1f\x8b", _GZIP),
    (b"version https://git-lfs", _GIT_LFS),
    (b"\x93NUMPY", NPY),
    (b"\x89PNG", _IMAGE),
    (b"\xff\xd8\xff", _IMAGE),
    # A protocol buffer whose first field is a version: a SavedModel is of
    # version 1, and no ONNX file is.
    (b"\x08\x01\x12", _SAVED_MODEL),
)
_ONNX_START = re.compile(rb"\x08[\x02-\x1f][\x12\x1a\x3a\x42]")
_PICKLE_START = re.compile(rb"\x80[\x02-\x05]")
_NUMBER = rb"[-+]?[\d.]+(?:[eE][-+]?\d+)?"
_TABLE_LINE = re.compile(rb"%s(?:[,;\t ]+%s)*\s*$" % (_NUMBER, _NUMBER))
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f\x80-\xff]")
_HEAD_BYTES = 4096


def as_path(path: str | os.PathLike[str]) -> Path:
    """Returns the path; a ValueError for what is none, a model for example.

    Example:

    >>> as_path(None)
    Traceback (most recent call last):
    ...
    ValueError: Expected the path of a file. Received: an instance of \
NoneType. Give one string or `pathlib.Path`.
    """
    if isinstance(path, str | os.PathLike):
        return Path(path)
    remedy = "Give one string or `pathlib.Path`."
    if hasattr(path, "layers"):
        remedy = "`export(model, path)` takes the model first, "
        remedy += "`verify(path, model)` the path; `inspect` takes the path."
    raise ValueError(
        "Expected the path of a file. Received: an instance of "
        f"{type(path).__name__}. {remedy}"
    )


def read_tflite(path: str | os.PathLike[str]) -> bytes:
    """Returns the bytes of a `.tflite` file of any name.

    A folder, or a file of another kind, is a ValueError that names it.

    Example:

    >>> read_tflite(".")
    Traceback (most recent call last):
    ...
    ValueError: Expected a .tflite file. Received: path='.', a folder. Give \
the file itself.
    """
    kind = kind_at(path)
    if kind != TFLITE:
        raise wrong_kind(path, kind, "a .tflite file")
    return Path(path).read_bytes()


def wrong_kind(
    path: str | os.PathLike[str], kind: Kind, expected: str
) -> ValueError:
    """Returns the error about a file of another kind."""
    return ValueError(
        f"Expected {expected}. Received: path={str(path)!r}, {kind.name}. "
        f"{kind.remedy}"
    )


def kind_at(path: str | os.PathLike[str]) -> Kind:
    """Returns the kind of a folder or a file, by its contents.

    Example:

    >>> kind_at(".").name
    'a folder'
    """
    path = as_path(path)
    if path.is_dir():
        is_saved_model = (path / "saved_model.pb").exists()
        return _SAVED_MODEL if is_saved_model else _FOLDER
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        has_model = b"model_config" in path.read_bytes()
        return _HDF5 if has_model else _HDF5_WEIGHTS
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_zip(path)
    return _kind_of_bytes(head)


def _kind_of_bytes(head: bytes) -> Kind:
    if not head:
        return EMPTY
    if head[4:8] == FILE_IDENTIFIER:
        return TFLITE
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if _ONNX_START.match(head):
        return _ONNX
    if _PICKLE_START.match(head):
        return _PYTORCH if b"torch" in head else _PICKLE
    return _kind_of_text(head) or Kind(
        f"which starts with {head[:8]!r}", "Is it the file that you meant?"
    )


def _kind_of_zip(path: Path) -> Kind:
    # Slow to import, and a .tflite file needs none.
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        return Kind(f"a damaged zip archive ({error})", EMPTY.remedy)
    return _kind_of_archive(names)


def _kind_of_archive(names: Collection[str]) -> Kind:
    models = sorted(n for n in names if n.endswith((".tflite", ".lite")))
    if "config.json" in names:
        return KERAS
    if models:
        return Kind(
            "a bundle (a zip archive, such as MediaPipe's .task)",
            f"Unpack it with `unzip`: it holds {', '.join(models[:4])}.",
        )
    if any(n.endswith("data.pkl") for n in names):
        return _PYTORCH
    if names and all(n.endswith(".npy") for n in names):
        return NPZ
    if any(n.endswith("saved_model.pb") for n in names):
        return _SAVED_MODEL
    return ZIP


def _kind_of_text(head: bytes) -> Kind | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return _HTML
    if _BINARY.search(head):
        return None
    if start.startswith((b"{", b"[")):
        return _JSON
    lines = head.splitlines()
    # The first line may be names, the last one cut.
    numbers = [line for line in lines[1:2] or lines if line.strip()]
    is_table = bool(numbers) and all(map(_TABLE_LINE.match, numbers))
    return _TABLE if is_table else None
