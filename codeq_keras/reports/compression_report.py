"""CompressionReport: what a model has reached, as text, picture and page."""

import dataclasses
import os
import textwrap
from collections.abc import Sequence
from typing import Any

from codeq_keras.architecture.listing import first_few
from codeq_keras.reports.advice import sentences
from codeq_keras.reports.page import write_page
from codeq_keras.reports.plot import plot_kernels
from codeq_keras.reports.records import (
    ActivationReport,
    ChannelReport,
    FileReport,
    KernelReport,
    SkippedLayer,
)
from codeq_keras.reports.report_page import report_blocks

_MAX_ADVICE = 4  # The rest is of smaller kernels.
_WIDTH = 100
# Of the numbers of a kernel; its path is as wide as the longest.
_COLUMNS = (
    *("kernel", "weights", "MACs", "zeros", "bits", "entropy"),
    *("bytes", "dB"),
)
_WIDTHS = (9, 11, 6, 4, 7, 9, 4)


@dataclasses.dataclass(frozen=True)
class CompressionReport:
    """The compression that a model has reached.

    Attributes:
        sparsity: Fraction of zeros among the quantized weights, in [0, 1].
        mean_bit_width: Bits per quantized weight, zeros included.
        relative_bops: Bit operations relative to the dense float32 model, in
            [0, 1], with 32-bit activations as in the paper and in
            `CompressionBudget`; for quantized ones, see `activations`. Kernels
            left in float count in full. None where the multiply-accumulates
            of a kernel are not known.
        bits_per_weight: Mean of density times bits per quantized weight.
        size_bytes: Estimated bytes of all of `layers`, coded without loss, as
            `CompressionBudget(size_bytes=...)` limits them; close to the
            weight streams of an Ethos-U. Biases and the rest of a file are
            not included. A weight left in float takes 4 bytes. Dense files
            store a byte, or half of one, per weight.
        float_size_bytes: Bytes of all kernels in float32.
        entropy_size_bytes: Entropy bound of all kernels, in bytes.
        layers: One `KernelReport` per kernel, in the order of the layers, and
            one per other weight of two axes or more, which stays in float. Its
            multiply-accumulates count where it can be multiplied with as by
            `x @ w`. Biases, gains and statistics of normalizations are not
            in it.
        activations: `ActivationReport`; None where they are left in float.
        held_sparsity: Fraction of zeros that trainings without a budget hold,
            kernel by kernel, in [0, 1]; None where no budget was trained, or
            `release_budget` was called.
        relative_macs: Multiply-accumulates that removed channels leave,
            relative to the model with all of them, in (0, 1]; None where they
            are not known. Removed channels count as zeros in all else, and
            not at all in bytes and entropies.
        channels: One `ChannelReport` per class of channels; empty without
            `channel_multiple`.
        file: `FileReport` of the file for a `target`; None without one.
        skipped: One `SkippedLayer` per layer with weights of which none is
            quantized, with the reason; empty for a TFMOT model.
    """

    sparsity: float
    mean_bit_width: float
    bits_per_weight: float
    relative_bops: float | None
    size_bytes: int
    float_size_bytes: int
    entropy_size_bytes: int
    layers: tuple[KernelReport, ...]
    activations: ActivationReport | None = None
    held_sparsity: float | None = None
    relative_macs: float | None = None
    channels: tuple[ChannelReport, ...] = ()
    file: FileReport | None = None
    skipped: tuple[SkippedLayer, ...] = ()

    @property
    def advice(self) -> tuple[str, ...]:
        """What would keep more, in sentences; empty where nothing would.

        First, if most weights agree, the bit width that suits the budget
        better; then, with `samples`, the kernel where more bytes pay most; then
        each kernel with a `better` choice, the largest first.
        """
        return sentences(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers as plain Python types, ready for JSON."""
        result = dataclasses.asdict(self)
        result["advice"] = list(self.advice)
        for kernel in result["layers"]:
            del kernel["histogram"]
            kernel["levels"] = [float(level) for level in kernel["levels"]]
        result["layers"] = list(result["layers"])
        result["file"] = None if self.file is None else self.file.to_dict()
        return result

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Writes a picture of sparsity, bits and weight histograms.

        Args:
            path: File to write; its suffix chooses the format, e.g. ".png".

        Raises:
            ImportError: If matplotlib is not installed.
        """
        title = (
            f"{self.sparsity:.1%} zeros, {self.mean_bit_width:.2f} bits per "
            f"weight, {self.size_bytes:,} bytes coded"
        )
        if self.relative_bops is not None:
            title += f", {self.relative_bops:.2%} relative BOPs"
        plot_kernels(self.layers, path, title=title)

    def to_html(
        self, path: str | os.PathLike[str], *, history: Any = None
    ) -> None:
        """Writes one HTML file, which needs no other file and no network.

        It has the headline numbers, the advice, a table of the kernels and
        their histograms, with what becomes zero shaded.

        Args:
            path: File to write; it ends in ".html". An old one is replaced.
            history: What `fit` returned, to draw each metric over the epochs.
                None for none.

        Raises:
            ImportError: If jinja2 is not installed.
            ValueError: If `path` does not end in ".html", or its folder does
                not exist.

        Example:

        >>> import codeq_keras, keras, pathlib, tempfile
        >>> dense = keras.layers.Dense(3, name="head")
        >>> model = keras.Sequential([keras.Input((4,)), dense])
        >>> qmodel = codeq_keras.quantize_model(model)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "report.html")
        ...     codeq_keras.report(qmodel).to_html(path)
        ...     "head/kernel" in path.read_text()
        True
        """
        write_page(
            path,
            title="Compression report",
            summary=[f"{len(self.layers)} kernels"],
            blocks=report_blocks(self, history),
        )

    def __str__(self) -> str:
        """Returns a table with a line per kernel and a summary."""
        lines = _table(self.layers)
        bops = "unknown: an input size is not fixed"
        if self.relative_bops is not None:
            part = f"{self.relative_bops:.2%}"
            bops = f"{part} of dense float32 (32-bit activations)"
        ratio = self.float_size_bytes / max(self.size_bytes, 1)
        lines += [
            "",
            f"sparsity       {self.sparsity:.1%}",
            f"mean bit width {self.mean_bit_width:.2f}",
            f"bits per weight {self.bits_per_weight:.2f} without the zeros",
            f"relative BOPs  {bops}",
            f"kernel bytes   {self.size_bytes:,} coded, {ratio:.1f}x smaller "
            f"than float32 (entropy bound {self.entropy_size_bytes:,})",
        ]
        if self.channels and self.relative_macs is not None:
            lines.append(
                f"relative MACs  {self.relative_macs:.2%} of those with all "
                "channels"
            )
        lines += [f"channels       {each}" for each in self.channels]
        if self.held_sparsity is not None:
            lines.append(
                f"held           {self.held_sparsity:.1%} zeros, in trainings "
                "without a budget, until `release_budget()`"
            )
        lines += _lines_on_skipped(self.skipped)
        if self.activations is not None:
            lines.append(str(self.activations))
        if self.file is not None:
            lines += _aligned("file bytes", str(self.file))
        return "\n".join([*lines, *_wrapped(self.advice)])


def _table(kernels: Sequence[KernelReport]) -> list[str]:
    """A line of names, and one of each kernel with its remarks."""
    paths = max(6, *(len(kernel.path) for kernel in kernels))

    def line(cells: Sequence[str]) -> str:
        path, *numbers = cells
        columns = zip(numbers, _WIDTHS, strict=True)
        return "  ".join([path.ljust(paths), *(c.rjust(n) for c, n in columns)])

    rows = [
        "  ".join([line(kernel.cells()), *kernel.remarks]) for kernel in kernels
    ]
    return [line(_COLUMNS), *rows]


def _lines_on_skipped(skipped: Sequence[SkippedLayer]) -> list[str]:
    """A line per reason, with the first layers that have it."""
    reasons: dict[str, list[str]] = {}
    for layer in skipped:
        reasons.setdefault(layer.reason, []).append(layer.path)
    return [
        f"skipped        {first_few(paths)}: {reason}"
        for reason, paths in reasons.items()
    ]


def _wrapped(advice: Sequence[str]) -> list[str]:
    """The lines of the first sentences, and how many more there are."""
    shown = list(advice[:_MAX_ADVICE])
    if len(advice) > _MAX_ADVICE:
        shown.append(f"{len(advice) - _MAX_ADVICE} more in `report.advice`")
    return [line for text in shown for line in _aligned("advice", text)]


def _aligned(title: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{title:<14} {text}", _WIDTH, subsequent_indent=" " * 15
    )
