"""The record of a benchmark: its rows, its sections as text, its JSON."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tflite_export.measuring.devices.records import Measurement, NotRun
from tflite_export.measuring.sizes import Sizes


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
    """One file.

    Attributes:
        path: The file.
        sizes: Its sizes.
        measurements: What was measured, device by device.
        not_run: The devices on which it was not, with the reason.
    """

    path: Path
    sizes: Sizes
    measurements: tuple[Measurement, ...]
    not_run: tuple[NotRun, ...]

    def values(self, device: str) -> Mapping[str, Any]:
        """Returns what was measured on a device; empty if it was not."""
        for measurement in self.measurements:
            if measurement.device == device:
                return measurement.values
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Returns the row as plain values, for JSON."""
        return {
            "path": str(self.path),
            "sizes": self.sizes.to_dict(),
            "measurements": {
                m.device: dict(m.values) for m in self.measurements
            },
            "not_run": {n.device: n.reason for n in self.not_run},
        }


class Section(NamedTuple):
    """A table: what it is of, its columns, and one row of cells per file."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


class _Column(NamedTuple):
    title: str
    form: str


# In this order, after the file; results of other names are not shown.
_COLUMNS = {
    "median_us": _Column("median us", ",.1f"),
    "mean_us": _Column("mean us", ",.1f"),
    "p90_us": _Column("p90 us", ",.1f"),
    "p95_us": _Column("p95 us", ",.1f"),
    "init_us": _Column("load us", ",.0f"),
    "ratio": _Column("ratio", ".2f"),
    "num_runs": _Column("runs", ",d"),
    "instructions": _Column("instructions", ",d"),
    "max_difference": _Column("difference to x86", ".2g"),
    "flash_bytes": _Column("flash bytes", ",d"),
    "arena_bytes": _Column("arena bytes", ",d"),
    "max_lsb": _Column("steps from reference", "d"),
    "cycles": _Column("cycles", ",d"),
    "npu_cycles": _Column("of arithmetic", ",d"),
    "sram_bytes": _Column("SRAM bytes", ",d"),
    "encoded_bytes": _Column("encoded bytes", ",d"),
    "bits_per_weight": _Column("bits a weight", ".2f"),
    "num_cpu_operators": _Column("on CPU", "d"),
    "phone": _Column("phone", ""),
}
# The measure of each device whose ratio to the first file is shown.
_COMPARED = ("instructions", "cycles", "flash_bytes")
_GAP = "  "


@dataclasses.dataclass(frozen=True)
class BenchmarkReport:
    """What `benchmark` measured; `str()` is a table for each device.

    Attributes:
        rows: One `BenchmarkRow` for each file, in the order given.
        machine: The host's processor, the number of threads, the CPUs they
            were pinned to, and the versions of the tools.
    """

    rows: tuple[BenchmarkRow, ...]
    machine: Mapping[str, str]

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices on which at least one file was measured."""
        names = [m.device for row in self.rows for m in row.measurements]
        return tuple(dict.fromkeys(names))

    def labels(self) -> list[str]:
        """The name of each file, as short as it can be told from others."""
        names = [row.path.name for row in self.rows]
        if len(set(names)) == len(names):
            return names
        return [str(row.path) for row in self.rows]

    def sections(self) -> list[Section]:
        """Returns the tables: sizes first, then one for each device."""
        return [
            self._sizes(),
            *(self._device_section(device) for device in self.devices),
        ]

    def not_run(self) -> list[str]:
        """Returns a line for each device and reason, with the files."""
        files: dict[NotRun, list[str]] = {}
        for label, row in zip(self.labels(), self.rows, strict=True):
            for reason in row.not_run:
                files.setdefault(reason, []).append(label)
        return [
            f"not run on {reason.device}: {_listed(names, self.rows)}: "
            f"{reason.reason}"
            for reason, names in sorted(
                files.items(), key=lambda item: item[0].device
            )
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return {
            "machine": dict(self.machine),
            "rows": [row.to_dict() for row in self.rows],
        }

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the report.

        Args:
            path: The PNG file to write; an old one is replaced.

        Raises:
            ValueError: If Matplotlib is not installed.
        """
        from tflite_export.measuring.plot import plot

        plot(self, Path(path))

    def __str__(self) -> str:
        """Returns the tables and what was not run."""
        machine = "; ".join(f"{k}: {v}" for k, v in self.machine.items())
        tables = [_as_text(section) for section in self.sections()]
        return "\n\n".join([machine, *tables, "\n".join(self.not_run())])

    def _sizes(self) -> Section:
        first = self.rows[0].sizes.file_bytes
        rows: list[tuple[str, ...]] = []
        for label, row in zip(self.labels(), self.rows, strict=True):
            sizes = row.sizes
            rows.append(
                (
                    label,
                    f"{sizes.file_bytes:,}",
                    f"{sizes.file_bytes / first:.2f}",
                    f"{sizes.gzip_bytes:,}",
                    _cell(sizes.zstd_bytes, ",d"),
                    f"{sizes.weight_bytes:,}",
                    f"{sizes.entropy_bytes:,.0f}",
                    _cell(sizes.entropy_ratio, ".2f"),
                )
            )
        columns = ("file", "bytes", "ratio", "gzip", "zstd")
        weights = ("weight bytes", "entropy bound", "times bound")
        return Section("Size", (*columns, *weights), rows)

    def _device_section(self, device: str) -> Section:
        measured = [row.values(device) for row in self.rows]
        keys = [k for k in _COLUMNS if any(k in values for values in measured)]
        columns, rows = ["file"], []
        for key in keys:
            columns.append(_COLUMNS[key].title)
            if key in _COMPARED:
                columns.append("ratio")
        for label, values in zip(self.labels(), measured, strict=True):
            cells = [label]
            for key in keys:
                cells.append(_cell(values.get(key), _COLUMNS[key].form))
                if key in _COMPARED:
                    cells.append(_ratio(values.get(key), measured[0].get(key)))
            if values:
                rows.append(tuple(cells))
        return Section(device, tuple(columns), rows)


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def _ratio(value: float | None, first: float | None) -> str:
    return "-" if value is None or not first else f"{value / first:.2f}"


def _listed(names: list[str], rows: tuple[BenchmarkRow, ...]) -> str:
    return "all files" if len(names) == len(rows) else ", ".join(names)


def _as_text(section: Section) -> str:
    lines = [section.columns, *section.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [section.title]
    for line in lines:
        first, *others = (
            cell.ljust(width) if position == 0 else cell.rjust(width)
            for position, (cell, width) in enumerate(
                zip(line, widths, strict=True)
            )
        )
        text.append(_GAP.join([first, *others]).rstrip())
    return "\n".join(text)
