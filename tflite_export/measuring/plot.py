"""Draws bars beside each other, a panel for each measure, into a PNG file."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tflite_export.extras import require_extra
from tflite_export.files import write_atomically

_NUM_COLUMNS = 3
_PANEL_WIDTH = 3.6
_BAR_HEIGHT = 0.34
_FRAME_HEIGHT = 1.0
_MAX_LABEL = 32
_BAR_COLOR = "#3b6ea8"
_FIRST_COLOR = "#9aa5b1"
_TEXT_COLOR = "#333333"


class Panel(NamedTuple):
    """A measure: its title with the unit, and a value for each label."""

    title: str
    values: list[float | None]


def plot_panels(
    panels: Sequence[Panel], labels: Sequence[str], caption: str, path: Path
) -> None:
    """Writes panels of bars as a PNG file; replaces an old one."""
    require_extra("matplotlib", extra="plot", needed_for="A plot")
    # Not pyplot: it keeps figures, and may want a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    num_columns = min(_NUM_COLUMNS, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    height = _FRAME_HEIGHT + _BAR_HEIGHT * len(labels)
    figure = Figure(
        figsize=(1.8 + _PANEL_WIDTH * num_columns, 0.5 + height * num_rows),
        layout=ConstrainedLayoutEngine(h_pad=0.12),
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for position, panel in enumerate(panels):
        is_left = position % num_columns == 0
        names = [_shortened(label) if is_left else "" for label in labels]
        _draw(axes[position], panel, names)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.supxlabel(caption, fontsize=7, color=_TEXT_COLOR)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    write_atomically({path: image.getvalue()})


def _draw(axis: Any, panel: Panel, names: list[str]) -> None:
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
    # Room for the numbers after the bars.
    axis.set_xlim(0, 1.25 * max([*lengths, 1e-9]))
    axis.set_yticks(positions, names, fontsize=8)
    axis.set_ylim(len(panel.values) - 0.4, -0.6)
    axis.tick_params(length=0)
    axis.set_xticks([])
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    axis.spines["left"].set_color("#cccccc")


def _shortened(label: str) -> str:
    """The end of a long label: it says more of a path than the start."""
    if len(label) <= _MAX_LABEL:
        return label
    return f"...{label[3 - _MAX_LABEL :]}"
