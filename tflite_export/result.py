"""ExportResult: what an export wrote."""

import dataclasses
from pathlib import Path
from typing import Any

from tflite_export.inspection import entropy_text
from tflite_export.tables import as_text
from tflite_export.targets.target import DeviceReport
from tflite_export.verification.report import VerificationReport


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What `export` wrote; `str()` is a short summary.

    Attributes:
        path: The file.
        size_bytes: Its size.
        verification: The comparison of the file with the model.
        notes: What is worth knowing: weights that were not trained, operators
            in float, scales that had to be estimated, how weights are stored.
        gzip_size_bytes: Size after gzip, as an update over the air has it.
        zstd_size_bytes: Size after zstd; None without `zstandard`.
        weight_bytes: Bytes of the weights alone, as they are stored; None if
            unknown.
        entropy_bytes: Bytes that an ideal entropy coder would need for them;
            None if unknown.
        other_files: What was written beside it: the compiled file of an
            Ethos-U, the C++ source for a microcontroller.
        device: What the target's tool measured; None if it has none.

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
        others = [f"also written: {path}" for path in self.other_files]
        notes = [f"note: {note}" for note in self.notes]
        return [sizes, *self.verification.parts(), *device, *others, *notes]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "gzip_size_bytes": self.gzip_size_bytes,
            "zstd_size_bytes": self.zstd_size_bytes,
            "weight_bytes": self.weight_bytes,
            "entropy_bytes": self.entropy_bytes,
            "verification": self.verification.to_dict(),
            "other_files": [str(path) for path in self.other_files],
            "device": None if self.device is None else self.device.to_dict(),
            "notes": list(self.notes),
        }
