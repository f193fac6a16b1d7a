"""The parts of the HTML page of a CompressionReport."""

from collections.abc import Mapping, Sequence
from typing import Any

from codeq_keras.costs import FLOAT_BITS
from codeq_keras.reports import charts
from codeq_keras.reports.kernel_reports import FLOAT_BYTES
from codeq_keras.reports.page import (
    Block,
    Cell,
    Fact,
    Facts,
    Figure,
    Figures,
    Grid,
    Lines,
)
from codeq_keras.reports.records import KernelReport

_COLUMNS = (
    *("kernel", "weights", "MACs", "zeros", "bits", "entropy", "bytes"),
    *("of float32", "SNR, dB", ""),
)
# Keras's prefix of metrics of the validation data.
_VALIDATION = "val_"
# What may be below 1 and is no fraction.
_NO_FRACTIONS = ("loss", "penalty", "learning_rate")
# A constant is no picture.
_LEAST_VALUES = 2


def report_blocks(report: Any, history: Any = None) -> list[Block]:
    """Returns what is to be read of a report, the most important first.

    `history` is what `fit` returned, or its dict.
    """
    file = []
    if report.file is not None:
        title = f"Bytes of the file for {report.file.target}"
        file = [bytes_grid(title, report.file.bytes_by_kind)]
    return [
        _facts(report),
        Lines("Advice", report.advice),
        Figures("Training", _training(history)),
        _kernels(report.layers),
        Figures("Weights, levels and what becomes zero", _weights(report)),
        *file,
        Lines("Notes", _notes(report)),
    ]


def _facts(report: Any) -> Facts:
    ratio = report.float_size_bytes / max(report.size_bytes, 1)
    facts = [
        Fact("zeros", f"{report.sparsity:.1%}", "of the quantized weights"),
        Fact(
            "bits a weight",
            f"{report.mean_bit_width:.2f}",
            f"{report.bits_per_weight:.2f} without the zeros",
        ),
        Fact(
            "kernels, bytes",
            f"{report.size_bytes:,}",
            f"{ratio:.1f}x smaller than float32",
        ),
        Fact("entropy bound", f"{report.entropy_size_bytes:,}", "bytes"),
    ]
    if report.relative_bops is not None:
        facts.append(
            Fact("BOPs", f"{report.relative_bops:.2%}", "of dense float32")
        )
    if report.channels and report.relative_macs is not None:
        facts.append(
            Fact(
                "MACs",
                f"{report.relative_macs:.1%}",
                "of those with all channels",
            )
        )
    if report.file is not None:
        facts.append(
            Fact(
                "file, bytes",
                f"{report.file.size_bytes:,}",
                f"for {report.file.target}",
            )
        )
    return Facts(facts)


def _kernels(kernels: Sequence[KernelReport]) -> Grid:
    return Grid(
        "Kernels",
        _COLUMNS,
        (False, *[True] * (len(_COLUMNS) - 2), False),
        [_row(kernel) for kernel in kernels],
    )


def _row(kernel: KernelReport) -> list[Cell]:
    share = kernel.size_bytes / (FLOAT_BYTES * kernel.num_weights)
    bits = kernel.bit_width / FLOAT_BITS
    entropy = kernel.entropy_bits / FLOAT_BITS
    parts = (None, None, None, kernel.sparsity, bits, entropy, None)
    *numbers, snr = kernel.cells()
    return [
        *map(Cell, numbers, parts),
        Cell(f"{share:.1%}", min(share, 1.0)),
        Cell(snr),
        Cell("; ".join(kernel.remarks)),
    ]


def _weights(report: Any) -> list[Figure]:
    return [
        Figure(
            charts.histogram(kernel),
            f"{kernel.path}: {kernel.sparsity:.1%} zeros, {kernel.bit_width} "
            "bits",
        )
        for kernel in report.layers
        if kernel.is_quantized
    ]


def _training(history: Any) -> list[Figure]:
    """A picture a metric, with that of the validation data in it."""
    logs: Mapping[str, Sequence[float]] = getattr(history, "history", history)
    figures = []
    for name, values in (logs or {}).items():
        if name.startswith(_VALIDATION):
            continue
        held = {name: values}
        if (beside := f"{_VALIDATION}{name}") in logs:
            held[beside] = logs[beside]
        known = {v for vs in held.values() for v in vs}
        if len(known) < _LEAST_VALUES:
            continue
        is_fraction = all(0 <= v <= 1 for v in known)
        percent = is_fraction and not name.endswith(_NO_FRACTIONS)
        figures.append(Figure(charts.lines(held, percent=percent), ""))
    return figures


def bytes_grid(title: str, by_kind: Mapping[str, int]) -> Grid:
    """Returns the table of a file's bytes, with the share of each kind."""
    total = max(sum(by_kind.values()), 1)
    rows = [
        [Cell(kind), Cell(f"{n:,}"), Cell(f"{n / total:.1%}", n / total)]
        for kind, n in by_kind.items()
    ]
    columns = ("kind", "bytes", "share")
    return Grid(title, columns, (False, True, True), rows)


def _notes(report: Any) -> list[str]:
    notes = [
        f"{each.path} is skipped: {each.reason}" for each in report.skipped
    ]
    notes += [str(each) for each in report.channels]
    if report.held_sparsity is not None:
        notes.append(
            f"{report.held_sparsity:.1%} zeros are held in trainings without a "
            "budget, until `release_budget()`."
        )
    if report.activations is not None:
        notes += str(report.activations).splitlines()
    return notes
