"""LiteRT for Microcontrollers: convolutions, and weights in few bytes.

The interpreter reads dense weights. Its `DECODE` unpacks look-up tables and
Huffman codes before each use, see `packing`.

FULLY_CONNECTED is written as a convolution of 1x1. Both runtimes multiply the
sum by `scale_in * scale_weights / scale_out`, as 31 bits and a shift. TFLM
rounds the product to 32 bits, and again after the shift; so do both runtimes in
convolutions. LiteRT's FULLY_CONNECTED rounds once. They differ by one step if
the first rounding makes a tie, in a few outputs of a hundred.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tflite_export.format.edits import (
    drop_bias_scales,
    join_equal_scales,
    replace_by_convolution,
)
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.operators import DECODE
from tflite_export.runtime import interpreter
from tflite_export.targets.findings import (
    CheckReport,
    Finding,
    operator_counts,
    run_failure,
    storage_findings,
    untried,
)
from tflite_export.targets.settings import positive_size
from tflite_export.targets.target import (
    Package,
    ProvenFile,
    Target,
    register_target,
)
from tflite_export.targets.tflm.arena import ArenaLimit
from tflite_export.targets.tflm.project import (
    KINDS,
    NUM_SAMPLES,
    MeasuredModel,
    project_files,
    require_replaceable,
)
from tflite_export.targets.tflm.revision import needed_tflm
from tflite_export.targets.tflm.simulation import (
    TflmReport,
    measure,
    measure_exactly,
    outputs_of,
)
from tflite_export.targets.tflm.source import header, model_name, source
from tflite_export.targets.tflm.storage import store_packed
from tflite_export.weights.metadata import copy_record

if TYPE_CHECKING:
    from tflite_export.trained_model import TrainedModel

# The runtime is slow, so few samples are compared.
MAX_SAMPLES = 16
# Their kernels multiply the scales of input and weights, and read no other.
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
_ADVICE = "Huffman codes and look-up tables ('auto') are its way to few bytes."


class Tflm(Target):
    """Microcontrollers."""

    name = "tflm"
    title = "LiteRT for Microcontrollers"
    storages = ("auto", "int8", "lut", "huffman")
    refused_storages: Mapping[str, str] = {
        "int4": f"It has no int4 kernels for scales per channel. {_ADVICE}",
        "sparse": f"It reads sparse tensors as dense ones, silently. {_ADVICE}",
    }
    devices = ("tflm",)
    reads_names = False
    projects = KINDS
    settings: Mapping[str, str] = {
        "max_arena_bytes": "the most RAM of its arena"
    }

    def __init__(self, max_arena_bytes: int | None = None) -> None:
        self._arena: ArenaLimit | None = None
        if max_arena_bytes is not None:
            self._arena = ArenaLimit(max_arena_bytes)

    def configured(self, settings: Mapping[str, str]) -> "Tflm":
        """Returns a microcontroller with so much RAM for the arena."""
        ((key, text),) = settings.items()
        return Tflm(positive_size(key, text))

    def require_project(self, project: str | None, path: Path) -> None:
        """Also refuses to replace a folder that is not such a project."""
        super().require_project(project, path)
        if project is not None:
            require_replaceable(path.with_suffix(""), project)

    def store(self, file: Flatbuffer, weight_storage: str) -> list[str]:
        """Writes each FULLY_CONNECTED as a convolution, and packs weights."""
        _write_dense(file)
        limit = self._arena.unpacked_bytes(file) if self._arena else math.inf
        return store_packed(file, weight_storage, max_unpacked_bytes=limit)

    def package(self, proven: ProvenFile, trained: "TrainedModel") -> Package:
        """Runs the file as the device does, and adds C++ source and header."""
        inputs = trained.inputs_of(proven.file, MAX_SAMPLES)
        data = _with_dense_weights(proven)
        report = measure_exactly(proven.data, inputs, reference=data)
        notes: tuple[str, ...] = ()
        if report.num_decoded:
            notes = _packing_notes(measure_exactly(data, inputs), report)
        if proven.project is not None:
            files = _project(proven, report, inputs)
            return Package(proven.data, files, report, notes)
        name = model_name(proven.name)
        texts = {
            f"{name}.cc": source(proven.data, name),
            f"{name}.h": header(
                proven.data, name, arena_bytes=report.arena_bytes
            ),
        }
        others = {name: text.encode() for name, text in texts.items()}
        return Package(proven.data, others, report, notes)

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
        notes = (*_comparison_notes(report), *_revision_notes(report))
        return CheckReport(self.name, placement, notes, report.to_dict())

    def check_untrained(self, data: bytes) -> CheckReport:
        """Says where the operators would run, and which firmware is needed."""
        report = self.check(data)
        if not report.is_ok:
            return report
        note = Finding(
            "weights",
            f"are packed by `weight_storage='auto'`. {needed_tflm([DECODE])}",
            "`weight_storage='int8'` packs none and needs nothing new.",
            is_blocking=False,
        )
        return dataclasses.replace(report, findings=(*report.findings, note))


def _revision_notes(report: TflmReport) -> Iterator[Finding]:
    """A note on the firmware that packed weights need."""
    if DECODE in report.operators:
        yield Finding(
            DECODE,
            needed_tflm(report.operators),
            "For older ones export with `weight_storage='int8'`.",
            is_blocking=False,
        )


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


def _project(
    proven: ProvenFile,
    report: TflmReport,
    inputs: Mapping[int, np.ndarray],
) -> dict[str, bytes]:
    """The files of a project, with some of the samples of the proof."""
    samples = {index: v[:NUM_SAMPLES] for index, v in inputs.items()}
    positions, _ = Flatbuffer(proven.data).interface()
    model = MeasuredModel(
        stem=proven.name,
        data=proven.data,
        arena_bytes=report.arena_bytes,
        inputs=[samples[index] for index in positions],
        outputs=outputs_of(proven.data, samples),
    )
    return project_files(str(proven.project), model)


def _packing_notes(dense: TflmReport, packed: TflmReport) -> tuple[str, ...]:
    """What packed weights save, cost and need."""
    return (
        f"{dense.flash_bytes - packed.flash_bytes:,} bytes of flash less and "
        f"{packed.arena_bytes - dense.arena_bytes:,} bytes of RAM more than "
        f"int8, by packed weights; {packed.decoding}.",
        f"{needed_tflm(packed.operators)} `weight_storage='int8'` packs none "
        "and needs nothing new.",
    )


def _with_dense_weights(proven: ProvenFile) -> bytes:
    """The file that `weight_storage="int8"` makes of the same model."""
    file = Flatbuffer(proven.dense)
    _write_dense(file)
    copy_record(file, proven.file)
    return file.to_bytes()


def _write_dense(file: Flatbuffer) -> None:
    """Writes a file as microcontrollers read it, with dense weights."""
    write_convolutions(file)
    join_equal_scales(file, _CONVOLUTIONS)
    drop_bias_scales(file, _CONVOLUTIONS)


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
