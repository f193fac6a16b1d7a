"""Draws a `BenchmarkReport`: a panel of bars for each measure."""

import importlib.util
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tflite_export.measuring.report import BenchmarkReport

_NUM_COLUMNS = 3
_PANEL_WIDTH = 3.6
_BAR_HEIGHT = 0.34
_FRAME_HEIGHT = 1.0
_MAX_LABEL = 32
_BAR_COLOR = "#3b6ea8"
_FIRST_COLOR = "#9aa5b1"
_TEXT_COLOR = "#333333"
_KIB = 1024


class _Panel(NamedTuple):
    """A measure: its title with the unit, and a value for each file."""

    title: str
    values: list[float | None]


class _Measure(NamedTuple):
    """The result of a device that is drawn, its title and its unit."""

    key: str
    title: str
    divisor: float


_MEASURES = (
    _Measure("median_us", "{device}: median time, us", 1),
    _Measure("instructions", "{device}: instructions, millions", 1e6),
    _Measure("cycles", "{device}: cycles, thousands", 1e3),
    _Measure("bits_per_weight", "{device}: bits a weight", 1),
    _Measure("flash_bytes", "{device}: flash, KiB", _KIB),
    _Measure("arena_bytes", "{device}: arena, KiB", _KIB),
    _Measure("sram_bytes", "{device}: SRAM, KiB", _KIB),
)


def plot(report: "BenchmarkReport", path: Path) -> None:
    """Writes a report as a PNG file.

    Args:
        report: The report.
        path: The file; it is replaced as a whole.

    Raises:
        ValueError: If Matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "A plot needs Matplotlib. Received: no package `matplotlib`. "
            'Install it with `pip install "codeq-keras[plot]"`.'
        )
    # Not pyplot: it keeps figures, and may want a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = _panels(report)
    num_columns = min(_NUM_COLUMNS, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    labels = [_shortened(label) for label in report.labels()]
    height = _FRAME_HEIGHT + _BAR_HEIGHT * len(labels)
    figure = Figure(
        figsize=(1.8 + _PANEL_WIDTH * num_columns, 0.5 + height * num_rows),
        layout=ConstrainedLayoutEngine(h_pad=0.12),
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for position, panel in enumerate(panels):
        is_left = position % num_columns == 0
        _draw(axes[position], panel, labels if is_left else None)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.supxlabel(_caption(report), fontsize=7, color=_TEXT_COLOR)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=150)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _panels(report: "BenchmarkReport") -> list[_Panel]:
    sizes = [row.sizes for row in report.rows]
    panels = [
        _Panel("File, KiB", [s.file_bytes / _KIB for s in sizes]),
        _Panel("File with gzip, KiB", [s.gzip_bytes / _KIB for s in sizes]),
        _Panel("Weights / entropy bound", [s.entropy_ratio for s in sizes]),
    ]
    for device in report.devices:
        for key, title, divisor in _MEASURES:
            held = [row.values(device).get(key) for row in report.rows]
            # No microcontroller has fewer bytes than its file.
            if (device, key) == ("tflm", "flash_bytes"):
                continue
            values = [None if v is None else v / divisor for v in held]
            if any(value is not None for value in values):
                panels.append(_Panel(title.format(device=device), values))
    return panels


def _draw(axis: Any, panel: _Panel, labels: list[str] | None) -> None:
    positions = range(len(panel.values))
    lengths = [0.0 if value is None else value for value in panel.values]
    colors = [_BAR_COLOR if i else _FIRST_COLOR for i in positions]
    axis.barh(positions, lengths, height=0.66, color=colors)
    for position, value in enumerate(panel.values):
        text = "not run" if value is None else f"{value:,.3g}"
        if value is not None and value >= 1000:
            text = f"{value:,.0f}"
        axis.annotate(
            text,
            (lengths[position], position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_TEXT_COLOR if value is not None else "#888888",
            style="normal" if value is not None else "italic",
        )
    axis.set_title(panel.title, fontsize=9, loc="left", color=_TEXT_COLOR)
    # Room for the numbers behind the bars.
    axis.set_xlim(0, 1.25 * max([*lengths, 1e-9]))
    axis.set_yticks(positions, labels or [""] * len(panel.values), fontsize=8)
    axis.set_ylim(len(panel.values) - 0.4, -0.6)
    axis.tick_params(length=0)
    axis.set_xticks([])
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    axis.spines["left"].set_color("#cccccc")


def _caption(report: "BenchmarkReport") -> str:
    return "; ".join(f"{k}: {v}" for k, v in report.machine.items())


def _shortened(label: str) -> str:
    """The end of a path says more than its start."""
    if len(label) <= _MAX_LABEL:
        return label
    return f"...{label[3 - _MAX_LABEL :]}"
