"""Draws reports and Pareto fronts with matplotlib. Computes nothing."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from codeq_keras.extras import missing_extra
from codeq_keras.reports.files import write_whole
from codeq_keras.reports.records import KernelReport

# Histograms of more kernels than this would be too small to read.
_MAX_HISTOGRAMS = 6

# Above this many bars the names of the kernels overlap.
_MAX_NAMES = 40


def plot_kernels(
    kernels: Sequence[KernelReport],
    path: str | os.PathLike[str],
    *,
    title: str,
) -> None:
    """Writes sparsity and bits of all kernels, and the largest histograms."""
    figure_class = _figure_class()
    quantized = [k for k in kernels if k.is_quantized]
    largest = sorted(quantized, key=lambda k: -k.num_weights)
    shown = largest[:_MAX_HISTOGRAMS]
    rows = -(-len(shown) // 2)
    figure = figure_class(figsize=(10, 4.5 + 2.2 * rows), layout="constrained")
    grid = figure.add_gridspec(2 + rows, 2, height_ratios=[1.2, 1, *[1] * rows])
    sparsity = figure.add_subplot(grid[0, :])
    bits = figure.add_subplot(grid[1, :], sharex=sparsity)
    _bars(sparsity, kernels, [k.sparsity for k in kernels], "sparsity")
    sparsity.set_ylim(0, 1)
    sparsity.tick_params(labelbottom=False)
    _bars(bits, kernels, [k.bit_width for k in kernels], "bit width")
    figure.suptitle(title)
    for index, kernel in enumerate(shown):
        axes = figure.add_subplot(grid[2 + index // 2, index % 2])
        _histogram(axes, kernel)
        if index == 0:
            axes.legend(fontsize=7, loc="upper right")
    _save(figure, path)


def plot_points(
    points: Sequence[tuple[float, float]],
    path: str | os.PathLike[str],
    *,
    label: str,
) -> None:
    """Writes a metric against relative BOPs: pairs of BOPs and metric."""
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
    _save(figure, path)


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("`plot`", "matplotlib", "plot") from error
    return Figure


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    path = pathlib.Path(path)
    if not path.suffix:
        path = path.with_name(f"{path.name}.png")  # As matplotlib names it.
    write_whole(path, lambda partial: figure.savefig(partial, dpi=120))


def _bars(
    axes: Any, kernels: Sequence[KernelReport], values: list[Any], label: str
) -> None:
    positions = np.arange(len(values))
    colors = ["C0" if k.is_quantized else "0.7" for k in kernels]
    axes.bar(positions, values, color=colors)
    axes.set_ylabel(label)
    axes.grid(axis="y", alpha=0.3)
    if len(values) <= _MAX_NAMES:
        names = [k.path.removesuffix("/kernel") for k in kernels]
        axes.set_xticks(positions, names, rotation=45, ha="right", fontsize=8)


def _histogram(axes: Any, kernel: KernelReport) -> None:
    counts, edges = kernel.histogram
    axes.stairs(counts, edges, fill=True, color="0.75", label="latent weights")
    for index, level in enumerate(kernel.levels):
        label = "levels" if index == 0 else None
        axes.axvline(level, color="C3", linewidth=0.8, label=label)
    axes.set_title(f"{kernel.path}: {kernel.sparsity:.0%} zeros", fontsize=9)
    axes.set_yticks([])
