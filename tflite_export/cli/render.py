"""The records of this package as tables in the terminal."""

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tflite_export.exporting import ExportResult
from tflite_export.inspection import Inspection, TensorRow, entropy_text
from tflite_export.measuring.report import BenchmarkReport
from tflite_export.targets.findings import CheckReport
from tflite_export.verification.report import VerificationReport

_NUMBERS = ("bytes", "zeros", "values", "entropy")


def inspection_table(inspection: Inspection) -> Any:
    """Returns the constants of a file as a table."""
    table = _table(
        inspection.title,
        ("operator", "type", "shape", "layout", *_NUMBERS, "name"),
    )
    for row in inspection.tensors:
        table.add_row(*map(Text, _cells(row)))
    return table


def verification_table(report: VerificationReport) -> Any:
    """Returns the comparison of a file with its model as a table."""
    num_equal = report.num_tensors - len(report.unequal)
    verdict = f"{num_equal} of {report.num_tensors} weight tensors equal"
    table = _table(
        f"Outputs on {report.num_samples} samples, in steps (LSB)",
        ("output", "max", "99 %", "top-1 agreement"),
    )
    for output in report.outputs:
        agreement = output.top1_agreement
        table.add_row(
            Text(output.name),
            f"{output.max_lsb:.2f}",
            f"{output.p99_lsb:.2f}",
            "-" if agreement is None else f"{agreement:.3f}",
        )
    style = "green" if report.codes_equal else "red"
    different = [
        Text(f"different: {path}", style="red") for path in report.unequal
    ]
    return Group(Text(f"Trained integers: {verdict}", style), *different, table)


def export_summary(result: ExportResult) -> Any:
    """Returns what an export wrote, its proof and its notes."""
    table = _table(str(result.path), ("size", "bytes"))
    for name, size in (
        ("file", result.size_bytes),
        ("with gzip", result.gzip_size_bytes),
        ("with zstd", result.zstd_size_bytes),
    ):
        if size is not None:
            table.add_row(name, f"{size:,}")
    if result.weight_bytes is not None and result.entropy_bytes is not None:
        text = entropy_text(result.weight_bytes, result.entropy_bytes)
        table.add_row("weights", text)
    lines = [] if result.device is None else [str(result.device)]
    lines += [f"also written: {path}" for path in result.other_files]
    lines += [f"note: {note}" for note in result.notes]
    return Group(
        table, verification_table(result.verification), *map(Text, lines)
    )


def benchmark_tables(report: BenchmarkReport) -> Any:
    """Returns the sizes and what each device measured as tables."""
    machine = [f"{name}: {value}" for name, value in report.machine.items()]
    tables = []
    for section in report.sections():
        table = Table(
            title=Text(section.title), title_justify="left", box=box.SIMPLE_HEAD
        )
        for position, column in enumerate(section.columns):
            table.add_column(
                column,
                justify="right" if position else "left",
                overflow="fold",
                no_wrap=position > 0,
            )
        for row in section.rows:
            table.add_row(*map(Text, row))
        tables.append(table)
    reasons = [Text(line, style="yellow") for line in report.not_run()]
    return Group(*map(Text, machine), *tables, *reasons)


def check_table(report: CheckReport) -> Any:
    """Returns what would run where, and what to change."""
    verdict = "ok" if report.is_ok else "blocked"
    style = "green" if report.is_ok else "red"
    table = _table("Operators", ("place", "operator", "count"))
    for place, counts in report.placement.items():
        for name, count in counts.items():
            table.add_row(place, Text(name), str(count))
    facts = [f"{name}: {value:,g}" for name, value in report.facts.items()]
    lines = [*facts, *map(str, report.findings)]
    return Group(
        Text(f"{report.target}: {verdict}", style),
        *([table] if report.placement else []),
        *map(Text, lines),
    )


def _table(title: str, columns: tuple[str, ...]) -> Table:
    # A path in brackets is no markup.
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        is_number = column in (*_NUMBERS, "max", "99 %", "count")
        # Numbers stay whole on narrow terminals; names are broken.
        table.add_column(
            column,
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=column != "name",
        )
    return table


def _cells(row: TensorRow) -> list[str]:
    shape = "x".join(map(str, row.shape)) or "scalar"
    cells = [row.operator, row.dtype, shape, row.layout]
    cells.append(f"{row.size_bytes:,}")
    if row.sparsity is None:
        cells += ["-", "-", "-"]
    else:
        cells += [
            f"{row.sparsity:.1%}",
            str(row.num_distinct),
            f"{row.entropy_bits:.2f}",
        ]
    return [*cells, row.name]
