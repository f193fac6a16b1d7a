"""Draws reports and Pareto fronts with matplotlib. Computes nothing."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from codeq_keras.reports.report import CompressionReport, KernelReport

# Histograms of more kernels than this would be too small to read.
_MAX_HISTOGRAMS = 6

# Above this many bars the names of the kernels overlap.
_MAX_NAMES = 40


def plot_report(
    report: "CompressionReport", path: str | os.PathLike[str]
) -> None:
    """Writes per-kernel sparsity and bits, and the largest histograms.

    Args:
        report: The report to draw.
        path: File to write; its suffix chooses the format.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure_class = _figure_class()
    quantized = [k for k in report.layers if k.is_quantized]
    largest = sorted(quantized, key=lambda k: -k.num_weights)
    shown = largest[:_MAX_HISTOGRAMS]
    rows = -(-len(shown) // 2)
    figure = figure_class(figsize=(10, 4.5 + 2.2 * rows), layout="constrained")
    grid = figure.add_gridspec(2 + rows, 2, height_ratios=[1.2, 1, *[1] * rows])
    sparsity = figure.add_subplot(grid[0, :])
    bits = figure.add_subplot(grid[1, :], sharex=sparsity)
    _bars(sparsity, report, [k.sparsity for k in report.layers], "sparsity")
    sparsity.set_ylim(0, 1)
    sparsity.tick_params(labelbottom=False)
    _bars(bits, report, [k.bit_width for k in report.layers], "bit width")
    figure.suptitle(_title(report))
    for index, kernel in enumerate(shown):
        axes = figure.add_subplot(grid[2 + index // 2, index % 2])
        _histogram(axes, kernel)
        if index == 0:
            axes.legend(fontsize=7, loc="upper right")
    figure.savefig(path, dpi=120)


def plot_points(
    points: Sequence[tuple[float, float]],
    path: str | os.PathLike[str],
    *,
    label: str,
) -> None:
    """Writes a metric against relative BOPs.

    Args:
        points: Pairs of relative BOPs and metric.
        path: File to write; its suffix chooses the format.
        label: Name of the metric.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = _figure_class()(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        [100 * bops for bops, _ in points],
        [metric for _, metric in points],
        marker="o",
    )
    axes.set_xlabel("relative BOPs, %")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "`plot` needs matplotlib. Install it with "
            "`pip install codeq-keras[plot]`."
        ) from error
    return Figure


def _title(report: "CompressionReport") -> str:
    title = (
        f"{report.sparsity:.1%} zeros, {report.mean_bit_width:.2f} bits per "
        f"weight, {report.size_bytes:,} bytes coded"
    )
    if report.relative_bops is not None:
        title += f", {report.relative_bops:.2%} relative BOPs"
    return title


def _bars(
    axes: Any, report: "CompressionReport", values: list[Any], label: str
) -> None:
    positions = np.arange(len(values))
    colors = ["C0" if k.is_quantized else "0.7" for k in report.layers]
    axes.bar(positions, values, color=colors)
    axes.set_ylabel(label)
    axes.grid(axis="y", alpha=0.3)
    if len(values) <= _MAX_NAMES:
        names = [k.path.removesuffix("/kernel") for k in report.layers]
        axes.set_xticks(positions, names, rotation=45, ha="right", fontsize=8)


def _histogram(axes: Any, kernel: "KernelReport") -> None:
    counts, edges = kernel.histogram
    axes.stairs(counts, edges, fill=True, color="0.75", label="latent weights")
    for index, level in enumerate(kernel.levels):
        label = "levels" if index == 0 else None
        axes.axvline(level, color="C3", linewidth=0.8, label=label)
    axes.set_title(f"{kernel.path}: {kernel.sparsity:.0%} zeros", fontsize=9)
    axes.set_yticks([])
