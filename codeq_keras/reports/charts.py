"""Charts as SVG texts, with the classes of `templates/page.html` as colours."""

import math
from collections.abc import Iterator, Mapping, Sequence
from xml.etree import ElementTree as Xml

from codeq_keras.reports.records import KernelReport

_WIDTH, _HEIGHT = 320.0, 150.0
_MARGIN, _TOP = 4.0, 6.0
# The axis; below are its numbers.
_FLOOR, _NUMBERS = _HEIGHT - 18, _HEIGHT - 4
# Above are the names of the lines.
_LINES_TOP = 24.0
_BAR_HEIGHT, _BAR_STEP, _BAR_VALUE_WIDTH = 16.0, 36.0, 78.0
_MAX_LABEL = 44


class _Drawing:
    """An SVG element that grows; texts are escaped."""

    def __init__(self, height: float, title: str) -> None:
        box = f"0 0 {_WIDTH:g} {height:g}"
        self._svg = Xml.Element("svg", {"viewBox": box, "role": "img"})
        Xml.SubElement(self._svg, "title").text = title

    def shape(self, name: str, kind: str, **places: float | str) -> None:
        """Adds a shape of a class of the page."""
        attributes = {
            key: f"{place:.1f}" if isinstance(place, float) else str(place)
            for key, place in places.items()
        }
        Xml.SubElement(self._svg, name, {"class": kind, **attributes})

    def text(
        self, x: float, y: float, text: str, *, end: str = "start", kind: str
    ) -> None:
        """Adds a text that begins, ends or is centered at a place."""
        places = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": end}
        element = Xml.SubElement(self._svg, "text", {"class": kind, **places})
        element.text = text

    def axis(self, left: str, middle: str, right: str) -> None:
        """Adds the axis with texts below it."""
        ends = {"x1": _MARGIN, "x2": _WIDTH - _MARGIN}
        self.shape("line", "axis", **ends, y1=_FLOOR, y2=_FLOOR)
        for x, text, end in (
            (_MARGIN, left, "start"),
            (_WIDTH / 2, middle, "middle"),
            (_WIDTH - _MARGIN, right, "end"),
        ):
            self.text(x, _NUMBERS, text, end=end, kind="axis-text")

    def written(self) -> str:
        return Xml.tostring(self._svg, encoding="unicode")


def histogram(kernel: KernelReport) -> str:
    """Draws the latent weights, the levels, and what becomes zero."""
    counts, edges = kernel.histogram
    # Zero is in the middle.
    end = max(abs(float(edges[0])), abs(float(edges[-1]))) or 1.0
    scale = (_FLOOR - _TOP) / max(int(counts.max(initial=0)), 1)

    def x_of(value: float) -> float:
        return _WIDTH / 2 + (_WIDTH / 2 - _MARGIN) * value / end

    drawing = _Drawing(
        _HEIGHT,
        f"Histogram of the weights of {kernel.path}: {kernel.sparsity:.0%} "
        f"are zero, on {len(kernel.levels)} levels.",
    )
    if kernel.zero_interval is not None:
        left, right = map(x_of, kernel.zero_interval)
        places = {"x": left, "width": max(right - left, 1.0)}
        drawing.shape("rect", "zone", **places, y=_TOP, height=_FLOOR - _TOP)
    steps = [f"M{x_of(float(edges[0])):.1f} {_FLOOR:g}"]
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        top = _FLOOR - scale * int(count)
        steps += [f"L{x_of(float(x)):.1f} {top:.1f}" for x in (left, right)]
    steps.append(f"L{x_of(float(edges[-1])):.1f} {_FLOOR:g}Z")
    drawing.shape("path", "area", d="".join(steps))
    for x in map(x_of, map(float, kernel.levels)):
        drawing.shape("line", "level", x1=x, x2=x, y1=_TOP, y2=_FLOOR)
    drawing.axis(f"{-end:.3g}", "0", f"{end:.3g}")
    return drawing.written()


def lines(series: Mapping[str, Sequence[float]], *, percent: bool) -> str:
    """Draws one or two lines over the epochs, which begin at 1."""
    form = ".1%" if percent else ".3g"
    values = [v for held in series.values() for v in held if math.isfinite(v)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    num_epochs = max(map(len, series.values()))
    ends = [f"{name} {held[-1]:{form}}" for name, held in series.items()]
    drawing = _Drawing(_HEIGHT, f"{', '.join(ends)} after {num_epochs} epochs.")
    for number, (held, text) in enumerate(
        zip(series.values(), ends, strict=True)
    ):
        spots = _spots(held, low, (high - low) or 1.0, num_epochs)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        drawing.shape("polyline", f"line{number}", points=points)
        x, end = (_WIDTH - _MARGIN, "end") if number else (_MARGIN, "start")
        drawing.text(x, 12, text, end=end, kind=f"name{number}")
    drawing.axis(
        "epoch 1", f"from {low:{form}} to {high:{form}}", str(num_epochs)
    )
    return drawing.written()


def _spots(
    values: Sequence[float], low: float, span: float, num_epochs: int
) -> Iterator[tuple[float, float]]:
    width, height = _WIDTH - 2 * _MARGIN, _FLOOR - _LINES_TOP
    for epoch, value in enumerate(values):
        if math.isfinite(value):
            x = _MARGIN + width * epoch / max(num_epochs - 1, 1)
            yield x, _FLOOR - height * (value - low) / span


def bars(values: Mapping[str, float | None]) -> str:
    """Draws a bar for each name, the first one as the reference."""
    known = [value for value in values.values() if value is not None]
    largest = max(known, default=0.0) or 1.0
    texts = {name: _bar_text(value) for name, value in values.items()}
    title = "; ".join(f"{name}: {text}" for name, text in texts.items())
    drawing = _Drawing(_BAR_STEP * len(values), title)
    for number, (name, value) in enumerate(values.items()):
        top = number * _BAR_STEP
        # The end of a long path says more than its beginning.
        label = name if len(name) <= _MAX_LABEL else f"...{name[-_MAX_LABEL:]}"
        drawing.text(0, top + 12, label, kind="axis-text")
        width = (_WIDTH - _BAR_VALUE_WIDTH) * (value or 0.0) / largest
        places = {"y": top + 16, "height": _BAR_HEIGHT, "width": width}
        drawing.shape("rect", "bar" if number else "first", x=0.0, **places)
        drawing.text(width + 6, top + 28, texts[name], kind="ink")
    return drawing.written()


def _bar_text(value: float | None) -> str:
    if value is None:
        return "not run"
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.3g}"
