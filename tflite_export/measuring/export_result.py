"""ExportResult: what an export wrote, as text, numbers and a page."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tflite_export.measuring.export_page import export_blocks
from tflite_export.tables import as_text, entropy_text
from tflite_export.targets.target import DeviceReport
from tflite_export.verification.report import VerificationReport

if TYPE_CHECKING:
    import codeq_keras

# As of `store_weights`, or of a path of the model.
_WEIGHT_NOTE = re.compile(r"(?P<name>'[^']+'|\S+ \([\dx]+\))(?P<text>: .*)")
_NUM_NAMES = 3


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """The result of `export`; `str()` is a short summary.

    Attributes:
        path: The file.
        size_bytes: Its size.
        verification: The comparison of the file with the model.
        notes: Notes on weights that were not trained, operators in float,
            estimated scales, and the storage of weights.
        gzip_size_bytes: Size after gzip, as for an update over the air.
        zstd_size_bytes: Size after zstd.
        weight_bytes: Stored bytes of the weights alone; None if unknown.
        entropy_bytes: Bytes that an ideal entropy coder would need for them;
            None if unknown.
        other_files: Further files: the compiled file of an Ethos-U, the C++
            source or the project for a microcontroller.
        device: The measurements of the target's tool; None if it has none.
        bytes_by_kind: Bytes of the file by kind, see `inspect`; their sum is
            `size_bytes`.

    Example:

    >>> report = VerificationReport(True, 2, (), (), 4)
    >>> print(ExportResult(Path("model.tflite"), 2048, report, ("a note",)))
    model.tflite: 2,048 bytes
    trained integers in the file: 2 of 2 tensors equal
    note: a note
    """

    path: Path
    size_bytes: int
    verification: VerificationReport
    notes: tuple[str, ...]
    gzip_size_bytes: int | None = None
    zstd_size_bytes: int | None = None
    weight_bytes: int | None = None
    entropy_bytes: float | None = None
    other_files: tuple[Path, ...] = ()
    device: DeviceReport | None = None
    bytes_by_kind: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """Returns a summary of a few lines."""
        return as_text(self.parts())

    def parts(self) -> list[str]:
        """Returns the lines of the summary."""
        sizes = f"{self.path}: {self.size_bytes:,} bytes"
        if self.gzip_size_bytes is not None:
            sizes += f", {self.gzip_size_bytes:,} with gzip"
        if self.zstd_size_bytes is not None:
            sizes += f", {self.zstd_size_bytes:,} with zstd"
        if self.weight_bytes is not None and self.entropy_bytes is not None:
            bound = entropy_text(self.weight_bytes, self.entropy_bytes)
            sizes += f"; weights: {bound}"
        device = [] if self.device is None else [str(self.device)]
        kinds = [f"{kind} {n:,}" for kind, n in self.bytes_by_kind.items()]
        bytes_line = [f"bytes: {', '.join(kinds)}"] if kinds else []
        others = [f"also written: {text}" for text in self.other_names()]
        notes = [f"note: {note}" for note in self.grouped_notes()]
        proof = self.verification.parts()
        return [sizes, *bytes_line, *proof, *device, *others, *notes]

    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        report: "codeq_keras.CompressionReport | None" = None,
        history: Any = None,
    ) -> None:
        """Writes the result as one HTML file; an old one is replaced.

        Args:
            path: File to write; it ends in ".html".
            report: `codeq_keras.report` of the model, to have the kernels on
                the same page.
            history: With it, what `fit` returned; see its `to_html`.

        Raises:
            ImportError: If jinja2 is not installed.
            ValueError: If `path` does not end in ".html", or its folder does
                not exist.
        """
        from codeq_keras.reports import report_blocks, write_page

        blocks = export_blocks(self)
        if report is not None:
            blocks += report_blocks(report, history)
        write_page(path, title=self.path.name, summary=[], blocks=blocks)

    def grouped_notes(self) -> list[str]:
        """Returns the notes; those that differ in their weight alone as one."""
        return grouped_notes(self.notes)

    def other_names(self) -> list[str]:
        """Returns the names of the other files, those of a project as one."""
        parent = self.path.parent
        beside = [path for path in self.other_files if path.parent == parent]
        texts = [str(path) for path in beside]
        if count := len(self.other_files) - len(beside):
            texts.append(f"{self.path.with_suffix('')}/, {count} files")
        return texts

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "gzip_size_bytes": self.gzip_size_bytes,
            "zstd_size_bytes": self.zstd_size_bytes,
            "weight_bytes": self.weight_bytes,
            "entropy_bytes": self.entropy_bytes,
            "bytes_by_kind": dict(self.bytes_by_kind),
            "verification": self.verification.to_dict(),
            "other_files": [str(path) for path in self.other_files],
            "device": None if self.device is None else self.device.to_dict(),
            "notes": list(self.notes),
        }


def grouped_notes(notes: Sequence[str]) -> list[str]:
    """Returns notes that only differ in their weight as one, with a count.

    Example:

    >>> grouped_notes(["a (2x3): int8; why.", "A note.", "b (4x5): int8; why."])
    ['2 weights (a (2x3), b (4x5)): int8; why.', 'A note.']
    """
    names: dict[str, list[str]] = {}
    for note in notes:
        match = _WEIGHT_NOTE.fullmatch(note)
        names.setdefault(match["text"] if match else note, []).append(
            match["name"] if match else ""
        )
    grouped = []
    for text, held in names.items():
        shown = ", ".join(held[:_NUM_NAMES])
        if len(held) > _NUM_NAMES:
            shown += f" and {len(held) - _NUM_NAMES} more"
        if len(held) > 1 and held[0]:
            shown = f"{len(held)} weights ({shown})"
        grouped.append(shown + text)
    return grouped
