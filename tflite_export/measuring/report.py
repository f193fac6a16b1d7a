"""The report of a benchmark: rows, tables, JSON and a picture."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tflite_export.measuring.devices import microcontroller
from tflite_export.measuring.devices.records import Measurement, NotRun
from tflite_export.measuring.plot import Panel, plot_panels
from tflite_export.measuring.sizes import Sizes
from tflite_export.tables import Table, as_blocks, as_text


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
    """One file.

    Attributes:
        path: The file.
        sizes: Its sizes.
        measurements: The results, device by device.
        not_run: The devices on which it was not measured, with the reason.
        macs: Multiply-accumulates of one run, counted in the file, zeros
            included; None where an operator does not tell.
        accuracy: The fraction in [0, 1] of samples whose largest output in
            LiteRT is their label; None without labels.
    """

    path: Path
    sizes: Sizes
    measurements: tuple[Measurement, ...]
    not_run: tuple[NotRun, ...]
    macs: int | None = None
    accuracy: float | None = None

    def values(self, device: str) -> Mapping[str, Any]:
        """Returns the results on a device; empty if it was not measured."""
        for measurement in self.measurements:
            if measurement.device == device:
                return measurement.values
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Returns the row as plain values, for JSON."""
        return {
            "path": str(self.path),
            "sizes": self.sizes.to_dict(),
            "macs": self.macs,
            "accuracy": self.accuracy,
            "measurements": {
                m.device: dict(m.values) for m in self.measurements
            },
            "not_run": {n.device: n.reason for n in self.not_run},
        }


class _Column(NamedTuple):
    title: str
    form: str


# The order of the columns, after the file; other results are not shown.
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
    "decode_instructions": _Column("to unpack, instructions", ",d"),
    "max_lsb": _Column("steps from reference", "d"),
    "cycles": _Column("cycles", ",d"),
    "npu_cycles": _Column("of arithmetic", ",d"),
    "sram_bytes": _Column("SRAM bytes", ",d"),
    "encoded_bytes": _Column("encoded bytes", ",d"),
    "bits_per_weight": _Column("bits a weight", ".2f"),
    "num_cpu_operators": _Column("on CPU", "d"),
    "phone": _Column("phone", ""),
}
# The results with a column for the ratio to the first file.
_COMPARED = (
    *("instructions", "cycles"),
    *("flash_bytes", "arena_bytes", "sram_bytes"),
)
_KIB = 1024


class _Drawn(NamedTuple):
    """A result that is drawn: its title with the unit, and its divisor."""

    title: str
    divisor: float


_DRAWN = {
    "median_us": _Drawn("{device}: median time, us", 1),
    "instructions": _Drawn("{device}: instructions, millions", 1e6),
    "cycles": _Drawn("{device}: cycles, thousands", 1e3),
    "bits_per_weight": _Drawn("{device}: bits a weight", 1),
    "flash_bytes": _Drawn("{device}: flash, KiB", _KIB),
    "arena_bytes": _Drawn("{device}: arena, KiB", _KIB),
    "sram_bytes": _Drawn("{device}: SRAM, KiB", _KIB),
}


@dataclasses.dataclass(frozen=True)
class BenchmarkReport:
    """The results of `benchmark`; `str()` has a table for each device.

    Attributes:
        rows: One `BenchmarkRow` for each file, in the order given.
        machine: The host's processor, the number of threads, their CPUs, and
            the versions of the tools.

    Example:

    >>> sizes = Sizes(2000, 1500, None, 1000, 800.0)
    >>> row = BenchmarkRow(Path("model.tflite"), sizes, (), (), macs=9000)
    >>> print(BenchmarkReport((row,), {"host": "a laptop"}))
    host: a laptop
    <BLANKLINE>
    Size
    file          bytes  ratio   MACs  ratio   gzip  zstd  weight bytes  \
entropy bound  times bound
    model.tflite  2,000   1.00  9,000   1.00  1,500     -         1,000  \
          800         1.25
    """

    rows: tuple[BenchmarkRow, ...]
    machine: Mapping[str, str]

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices on which at least one file was measured."""
        names = [m.device for row in self.rows for m in row.measurements]
        return tuple(dict.fromkeys(names))

    def labels(self) -> list[str]:
        """The name of each file, or its path if two names are equal."""
        names = [row.path.name for row in self.rows]
        if len(set(names)) == len(names):
            return names
        return [str(row.path) for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return {
            "machine": dict(self.machine),
            "rows": [row.to_dict() for row in self.rows],
        }

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the report as a PNG file; an old one is replaced.

        Raises:
            ImportError: If Matplotlib is not installed.
        """
        panels = [*self._size_panels(), *self._device_panels()]
        plot_panels(panels, self.labels(), self._machine(), Path(path))

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Writes the tables and bars as one HTML file; an old one is replaced.

        Args:
            path: File to write; it ends in ".html".

        Raises:
            ImportError: If jinja2 is not installed.
            ValueError: If `path` does not end in ".html", or its folder does
                not exist.
        """
        from codeq_keras.reports import Figure, Figures, charts, write_page

        panels = [*self._size_panels(), *self._device_panels()]
        bars = [
            Figure(
                charts.bars(dict(zip(self.labels(), p.values, strict=True))),
                p.title,
            )
            for p in panels
        ]
        machine, *parts = self.parts()
        write_page(
            path,
            title="Benchmark",
            summary=[str(machine)],
            blocks=[Figures("Beside each other", bars), *as_blocks(parts)],
        )

    def parts(self) -> list[str | Table]:
        """Returns the machine, the tables of all devices, and the failures."""
        tables = [self._device_table(device) for device in self.devices]
        lines = [*self._not_run(), *self._not_compared()]
        tables = [self._sizes(), *self._accuracies(), *tables]
        return [self._machine(), *tables, *lines]

    def __str__(self) -> str:
        """Returns the parts as text."""
        return as_text(self.parts())

    def _machine(self) -> str:
        return "; ".join(f"{k}: {v}" for k, v in self.machine.items())

    def _not_run(self) -> list[str]:
        """A line for each device and reason, with the files."""
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

    def _not_compared(self) -> list[str]:
        """A line for each file that ran, but not in LiteRT."""
        return [
            f"note: outputs on {m.device} not compared: {label}: "
            f"{m.values['not_compared']}"
            for label, row in zip(self.labels(), self.rows, strict=True)
            for m in row.measurements
            if "not_compared" in m.values
        ]

    def _sizes(self) -> Table:
        first, first_macs = self.rows[0].sizes.file_bytes, self.rows[0].macs
        rows: list[tuple[str, ...]] = []
        for label, row in zip(self.labels(), self.rows, strict=True):
            sizes = row.sizes
            rows.append(
                (
                    label,
                    f"{sizes.file_bytes:,}",
                    f"{sizes.file_bytes / first:.2f}",
                    _cell(row.macs, ",d"),
                    _cell(_quotient(row.macs, first_macs), ".2f"),
                    f"{sizes.gzip_bytes:,}",
                    _cell(sizes.zstd_bytes, ",d"),
                    # A file that was compiled for a device shows no weights.
                    _cell(sizes.weight_bytes or None, ",d"),
                    _cell(sizes.entropy_bytes or None, ",.0f"),
                    _cell(sizes.entropy_ratio, ".2f"),
                )
            )
        columns = ("file", "bytes", "ratio", "MACs", "ratio", "gzip", "zstd")
        weights = ("weight bytes", "entropy bound", "times bound")
        return Table("Size", (*columns, *weights), rows)

    def _accuracies(self) -> list[Table]:
        """One table where labels were given."""
        rows = [
            (label, f"{row.accuracy:.2%}")
            for label, row in zip(self.labels(), self.rows, strict=True)
            if row.accuracy is not None
        ]
        table = Table("Accuracy in LiteRT", ("file", "accuracy"), rows)
        return [table] if rows else []

    def _device_table(self, device: str) -> Table:
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
                    cells.append(_ratio(key, values, measured[0]))
            if values:
                rows.append(tuple(cells))
        return Table(device, tuple(columns), rows)

    def _size_panels(self) -> list[Panel]:
        sizes = [row.sizes for row in self.rows]
        return [
            Panel("File, KiB", [s.file_bytes / _KIB for s in sizes]),
            Panel("File with gzip, KiB", [s.gzip_bytes / _KIB for s in sizes]),
            *self._macs_panel(),
            Panel("Weights / entropy bound", [s.entropy_ratio for s in sizes]),
        ]

    def _macs_panel(self) -> list[Panel]:
        macs = [_quotient(row.macs, 1_000_000) for row in self.rows]
        is_known = any(count is not None for count in macs)
        return [Panel("Multiply-accumulates, millions", macs)] * is_known

    def _device_panels(self) -> list[Panel]:
        panels = []
        for device in self.devices:
            for key, (title, divisor) in _DRAWN.items():
                # The flash of a microcontroller is the size of the file.
                if (device, key) == (microcontroller.DEVICE, "flash_bytes"):
                    continue
                held = [row.values(device).get(key) for row in self.rows]
                values = [None if v is None else v / divisor for v in held]
                if any(value is not None for value in values):
                    panels.append(Panel(title.format(device=device), values))
        return panels


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def _ratio(
    key: str, values: Mapping[str, Any], first: Mapping[str, Any]
) -> str:
    """The ratio to the first file, where both numbers are of a whole file."""
    # Cycles are those of the NPU alone.
    is_part = key == "cycles" and any(
        held.get("num_cpu_operators") for held in (values, first)
    )
    if is_part:
        return "-"
    return _cell(_quotient(values.get(key), first.get(key)), ".2f")


def _quotient(value: float | None, first: float | None) -> float | None:
    return None if value is None or not first else value / first


def _listed(names: list[str], rows: tuple[BenchmarkRow, ...]) -> str:
    return "all files" if len(names) == len(rows) else ", ".join(names)
