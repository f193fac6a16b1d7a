"""A folder with a model, a test and a build, for the firmware of a device."""

import hashlib
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.targets.tflm import source, vectors
from tflite_export.targets.tflm.revision import BUILT_WITH, needed_tflm

NUM_SAMPLES = 8
SUMS = "SHA256SUMS"
# The folder in a project for the sources of the model, by kind.
_SOURCES = {
    "cmake": "",
    "zephyr": "src/",
    "esp-idf": "components/NAME/",
}
KINDS = tuple(_SOURCES)
_TEMPLATES = Path(__file__).with_name("templates")
# Texts of a kind that go into its README.
_PARTS = ("build", "two_models")


class _Template(string.Template):
    # CMake and C++ use `$`, and neither of them this.
    delimiter = "@"
    braceidpattern = r"[a-z_]+"
    idpattern = r"(?!)"


class MeasuredModel(NamedTuple):
    """A model with its measured arena and its samples by position."""

    stem: str
    data: bytes
    arena_bytes: int
    inputs: Sequence[np.ndarray]
    outputs: Sequence[np.ndarray]


def project_files(kind: str, model: MeasuredModel) -> dict[str, bytes]:
    """Returns the files of a project by name, with the folder in front."""
    name = source.model_name(model.stem)
    fields = _fields(kind, model, name)
    texts = {
        target: _Template(template.read_text()).substitute(fields)
        for target, template in _layout(kind, name).items()
    }
    header, body = _sources(kind, name)
    texts[header] = source.header(
        model.data, name, arena_bytes=model.arena_bytes
    )
    texts[body] = source.source(model.data, name)
    files = {target: text.encode() for target, text in sorted(texts.items())}
    files[SUMS] = _sums(files)
    return {f"{model.stem}/{target}": data for target, data in files.items()}


def _layout(kind: str, name: str) -> dict[str, Path]:
    """The templates of a kind by the names of the files that they make."""
    own = _TEMPLATES / kind
    skipped = {own / f"{part}.md" for part in _PARTS}
    layout = {
        path.relative_to(own).as_posix(): path
        for path in own.rglob("*")
        if path.is_file() and path not in skipped
    }
    layout["README.md"] = _TEMPLATES / "README.md"
    for path in (_TEMPLATES / "source").iterdir():
        layout[f"{_SOURCES[kind]}{path.name}"] = path
    return {key.replace("NAME", name): path for key, path in layout.items()}


def _sources(kind: str, name: str) -> tuple[str, str]:
    """The names of the header and the source of the model."""
    stem = f"{_SOURCES[kind]}NAME".replace("NAME", name)
    return f"{stem}.h", f"{stem}.cc"


def _fields(kind: str, model: MeasuredModel, name: str) -> dict[str, str]:
    """The texts that stand in the templates."""
    file = Flatbuffer(model.data)
    operators = sorted({operator.name for operator in file.operators})
    fields = {
        "name": name,
        "stem": model.stem,
        "revision": BUILT_WITH[0],
        "needs": _needs(operators),
        "operators": ", ".join(operators),
        "methods": " ".join(source.methods(file)),
        "flash_bytes": f"{len(model.data):,}",
        "arena_bytes": f"{model.arena_bytes:,}",
        "arena_size": f"{source.arena_size(model.arena_bytes):,}",
        "interface": "\n".join(_rows(file)),
        **vectors.fields(model.data, model.inputs, model.outputs),
    }
    for part in _PARTS:
        text = (_TEMPLATES / kind / f"{part}.md").read_text().strip()
        fields[part] = _Template(text).substitute(fields)
    return fields


def _needs(operators: Sequence[str]) -> str:
    """Says which TFLM runs a file, and which one has."""
    commit, date = BUILT_WITH
    return (
        f"built and run with revision `{commit}` ({date}). "
        f"{needed_tflm(operators).removesuffix('.')}"
    )


def _rows(file: Flatbuffer) -> list[str]:
    """A row of the table of inputs and outputs for each of them."""
    rows = []
    for kind, indices in zip(
        ("input", "output"), file.interface(), strict=True
    ):
        for number, index in enumerate(indices):
            tensor = file.tensor(0, index)
            shape = "x".join(map(str, tensor.shape))
            label = source.printable(tensor.short_name)
            scale, zero_point = source.quantization(tensor)
            rows.append(
                f"| {kind} | {number} | {label} | {tensor.dtype} | {shape} "
                f"| {scale} | {zero_point} |"
            )
    return rows


def _sums(files: Mapping[str, bytes]) -> bytes:
    """The hashes of files, as `sha256sum --check` reads them."""
    lines = (
        f"{hashlib.sha256(data).hexdigest()}  {name}\n"
        for name, data in files.items()
    )
    return "".join(lines).encode()


def require_replaceable(folder: Path, kind: str) -> None:
    """Raises a ValueError if a project would overwrite the work of others.

    An older project of the same kind is replaced, if none of its files was
    changed; further files in its folder stay.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    remedy = "Move it, or give the `.tflite` file another name."
    if not folder.is_dir():
        raise ValueError(
            f"`project` writes a folder beside the file. Received: "
            f"{str(folder)!r}, which is a file. {remedy}"
        )
    written = _written(folder)
    name = source.model_name(folder.name)
    made = {*_layout(kind, name), *_sources(kind, name), SUMS}
    foreign = sorted(
        file for file in made - written.keys() if (folder / file).exists()
    )
    if not written and any(folder.iterdir()):
        foreign = foreign or sorted(path.name for path in folder.iterdir())
    changed = sorted(f for f, is_same in written.items() if not is_same)
    others = sorted(written.keys() - made)
    for files, text in (
        (foreign, "which no export wrote"),
        (changed, "which was changed since it was written"),
        (others, "of a project of another kind"),
    ):
        if files:
            raise ValueError(
                f"The folder {str(folder)!r} must be new, or a project as it "
                f"was written. Received: it holds {files[0]!r}, {text}. "
                f"{remedy}"
            )


def _written(folder: Path) -> dict[str, bool]:
    """The files that the last export wrote, and whether each is as it was."""
    sums = folder / SUMS
    if not sums.is_file():
        return {}
    written = {SUMS: True}
    for line in sums.read_text(errors="replace").splitlines():
        expected, _, name = line.partition("  ")
        path = folder / name
        if path.is_file():
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            written[name] = found == expected
    return written
