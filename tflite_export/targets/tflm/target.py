"""LiteRT for Microcontrollers: convolutions, and look-up tables on request.

The interpreter reads dense weights, or, with `DECODE`, indices into tables.

FULLY_CONNECTED is written as a convolution of 1x1. Both runtimes multiply the
sum by `scale_in * scale_weights / scale_out`, as 31 bits and a shift. TFLM
rounds the product to 32 bits, and again after the shift; so do both runtimes in
convolutions. LiteRT's FULLY_CONNECTED rounds once. They differ by one step if
the first rounding makes a tie, in a few outputs of a hundred.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tflite_export.format.edits import (
    drop_bias_scales,
    join_equal_scales,
    replace_by_convolution,
)
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter
from tflite_export.targets.findings import (
    CheckReport,
    Finding,
    operator_counts,
    run_failure,
    storage_findings,
    untried,
)
from tflite_export.targets.target import (
    Package,
    ProvenFile,
    Target,
    register_target,
)
from tflite_export.targets.tflm.simulation import (
    TflmReport,
    measure,
    measure_exactly,
)
from tflite_export.targets.tflm.source import header, source
from tflite_export.targets.tflm.tables import compress

if TYPE_CHECKING:
    from tflite_export.trained_model import TrainedModel

# The runtime is slow, so few samples are compared.
MAX_SAMPLES = 16
# Their kernels multiply the scales of input and weights, and read no other.
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
_ADVICE = "Look-up tables ('lut') are its way to few bytes."


class Tflm(Target):
    """Microcontrollers."""

    name = "tflm"
    title = "LiteRT for Microcontrollers"
    storages = ("auto", "int8", "lut")
    refused_storages: Mapping[str, str] = {
        "int4": f"It has no int4 kernels for scales per channel. {_ADVICE}",
        "sparse": f"It reads sparse tensors as dense ones, silently. {_ADVICE}",
    }
    devices = ("tflm",)
    reads_names = False

    def store(self, file: Flatbuffer, weight_storage: str) -> list[str]:
        """Writes each FULLY_CONNECTED as a convolution, and drops scales."""
        write_convolutions(file)
        join_equal_scales(file, _CONVOLUTIONS)
        drop_bias_scales(file, _CONVOLUTIONS)
        return []

    def package(self, proven: ProvenFile, trained: "TrainedModel") -> Package:
        """Adds C++ source and header; `"lut"` replaces weights by tables."""
        inputs = trained.inputs_of(proven.file, MAX_SAMPLES)
        shipped, report, notes = _with_tables(proven, inputs)
        operators = Flatbuffer(shipped).operators
        texts = {
            f"{proven.name}.cc": source(
                shipped, header_name=f"{proven.name}.h"
            ),
            f"{proven.name}.h": header(
                operators, arena_bytes=report.arena_bytes
            ),
        }
        others = {name: text.encode() for name, text in texts.items()}
        return Package(shipped, others, report, notes)

    def check(self, data: bytes) -> CheckReport:
        """Says whether a file runs on a microcontroller, by running it."""
        file = Flatbuffer(data)
        findings = storage_findings(file, self.title, reads_int4=True)
        if findings or untried(file):
            notes = (*findings, *untried(file))
            return CheckReport(self.name, {}, notes, {})
        try:
            report = measure(data, interpreter.zero_inputs(file))
        except ValueError as error:
            finding = run_failure("model", file, error)
            return CheckReport(self.name, {}, (finding,), {})
        placement = {"CPU": operator_counts(file)}
        notes = tuple(_comparison_notes(report))
        return CheckReport(self.name, placement, notes, report.to_dict())


def _comparison_notes(report: TflmReport) -> Iterator[Finding]:
    """A note if LiteRT has other outputs, or none: the file runs all the same.

    Files of other makers may have operators that round in another way.
    """
    if report.max_lsb is None or not report.is_close:
        yield Finding(
            "outputs",
            f"are {report.comparison.removesuffix('.')}.",
            "Compare them on the device.",
            is_blocking=False,
        )


def _with_tables(
    proven: ProvenFile, inputs: Mapping[int, np.ndarray]
) -> tuple[bytes, TflmReport, tuple[str, ...]]:
    """The file to ship, its report, and a note on look-up tables."""
    is_wanted = proven.weight_storage == "lut"
    dense = measure_exactly(proven.data, inputs)
    compressed, names = compress(proven.data)
    saved = len(proven.data) - len(compressed)
    if saved <= 0:
        if is_wanted:
            raise ValueError(
                "`weight_storage='lut'` must make a file smaller. Received: a "
                "model whose tensors have too many different values for their "
                "size. Use `weight_storage='auto'`."
            )
        return proven.data, dense, ()
    tables = measure_exactly(compressed, inputs, reference=proven.data)
    effect = (
        f"{saved:,} bytes of flash less and "
        f"{tables.arena_bytes - dense.arena_bytes:,} bytes of RAM more, by "
        f"look-up tables for {len(names)} weight tensors"
    )
    if is_wanted:
        return compressed, tables, (f"{effect}.",)
    note = f"`weight_storage='lut'` would make it {effect}."
    return proven.data, dense, (note,)


def write_convolutions(file: Flatbuffer) -> None:
    """Writes each FULLY_CONNECTED as a convolution, in place.

    One whose kernel is computed, or read by another operator, stays; its
    outputs are within one step of LiteRT's.
    """
    operators = file.operators
    dense = [o for o in operators if o.name == "FULLY_CONNECTED"]
    others = {
        (operator.subgraph, index)
        for operator in operators
        if operator.name != "FULLY_CONNECTED"
        for index in (*operator.inputs, *operator.outputs)
    }
    # The last one first, since operators after a changed one move.
    for operator in reversed(dense):
        kernel = (operator.subgraph, operator.inputs[1])
        if kernel not in others and file.tensor(*kernel).data is not None:
            replace_by_convolution(file, operator)


register_target(Tflm())
