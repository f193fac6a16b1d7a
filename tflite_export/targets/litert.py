"""LiteRT on phones and single-board computers.

Its loader checks little: a kernel reads an unexpected sparse weight as a dense
one, silently. The faults and the slow forms were measured with LiteRT 2.3.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tflite_export.format.borders import IO_DTYPES, Borders
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Operator, Tensor
from tflite_export.runtime import interpreter
from tflite_export.targets.findings import (
    CheckReport,
    Finding,
    operator_counts,
    run_failure,
    untried,
)
from tflite_export.targets.litert_sparse.topology import (
    is_computed_sparsely,
    topology_findings,
)
from tflite_export.targets.litert_storage import store_weights
from tflite_export.targets.target import (
    PACKED_REFUSALS,
    PHONE_DEVICES,
    Package,
    ProvenFile,
    Target,
    register_target,
)

if TYPE_CHECKING:
    from tflite_export.trained_model import TrainedModel

TIME_LIMIT_S = 60.0
# XNNPACK reads sparse weights of newer versions as dense ones.
_MAX_SPARSE_DENSE_VERSION = 8
_SLOW_INT4 = ("CONV_2D", "DEPTHWISE_CONV_2D")
_NO_INT4 = ("TRANSPOSE_CONV",)


class LiteRt(Target):
    """LiteRT on phones and single-board computers, with XNNPACK."""

    name = "litert"
    title = "LiteRT"
    storages = ("auto", "int8", "int4", "sparse")
    refused_storages: Mapping[str, str] = PACKED_REFUSALS
    io_dtypes = IO_DTYPES
    devices = PHONE_DEVICES
    reads_names = False

    def store(self, file: Flatbuffer, weight_storage: str) -> list[str]:
        """Stores each weight in the fewest bytes that run at full speed."""
        return store_weights(file, weight_storage)

    def package(self, proven: ProvenFile, trained: "TrainedModel") -> Package:
        """Proves that the storage does not change the outputs."""
        _require_same_outputs(proven, trained)
        return Package(proven.data)

    def check(self, data: bytes) -> CheckReport:
        """Says whether LiteRT runs a file right, by rules and by a run."""
        file = Flatbuffer(data)
        findings = []
        for operator in file.operators:
            for index in operator.inputs:
                if index >= 0:
                    tensor = file.tensor(operator.subgraph, index)
                    findings += _weight_findings(operator, tensor)
        findings += _sparse_notes(file)
        findings += [
            Finding(
                name,
                f"computes in float32 ({count} operators).",
                "Replace its layer by one with an int8 kernel.",
                is_blocking=False,
            )
            for name, count in file.float_operators().items()
        ]
        if not any(finding.is_blocking for finding in findings):
            findings += _run_findings(file, data)
        placement = {"CPU": operator_counts(file)}
        return CheckReport(self.name, placement, tuple(findings), {})


def _require_same_outputs(proven: ProvenFile, trained: "TrainedModel") -> None:
    """Raises an error if the stored weights change the outputs."""
    if proven.data == proven.dense:
        return
    inputs = trained.inputs_of(proven.file)
    expected = interpreter.run(proven.dense, inputs)
    actual = interpreter.run(proven.data, inputs)
    # Kernels of packed weights round once more, half a step each at most.
    allowed = len(proven.file.operators)
    borders = Borders(proven.file)
    worst = max(
        float(
            np.abs(
                actual[tensor.index].astype(float) - expected[tensor.index]
            ).max(initial=0)
        )
        # Float outputs are compared in steps of the codes behind them.
        / (1.0 if tensor.scales.size else borders.step(tensor) or 1.0)
        for tensor in proven.file.outputs().values()
    )
    if not worst <= allowed:
        raise ValueError(
            "LiteRT must compute the same from stored and dense weights. "
            f"Received: outputs that differ by {worst:g} steps. Use "
            "`weight_storage='int8'`."
        )


def _weight_findings(operator: Operator, tensor: Tensor) -> list[Finding]:
    subject = f"{operator.name} {tensor.name!r}"
    remedy = "Export with `weight_storage='auto'`."
    if tensor.sparse is not None and operator.name != "DENSIFY":
        is_known = (
            operator.name == "FULLY_CONNECTED"
            and tensor.sparse.layout == "1x16"
            and operator.version <= _MAX_SPARSE_DENSE_VERSION
        ) or (operator.name == "FULLY_CONNECTED" and tensor.dtype == "float32")
        if not is_known:
            text = "reads a sparse tensor as a dense one, or fails."
            return [Finding(subject, text, remedy)]
    if tensor.dtype == "int4" and tensor.size_bytes:
        if operator.name in _NO_INT4:
            return [Finding(subject, "runs no int4 weights.", remedy)]
        if operator.name in _SLOW_INT4:
            text = "takes four times as long with int4 as with int8."
            return [Finding(subject, text, remedy, is_blocking=False)]
    return []


def _sparse_notes(file: Flatbuffer) -> list[Finding]:
    """A note on a graph that XNNPACK's sparse kernels may compute wrongly.

    Only ARM takes these kernels, so a run here says nothing. Many graphs that
    are not proven run right there: the maker's own tests decide.
    """
    unproven = topology_findings(file) if is_computed_sparsely(file) else ()
    if not unproven:
        return []
    first, *others = unproven
    more = f" (and {len(others)} more)" if others else ""
    return [
        Finding(
            "sparse weights",
            "the sparse kernels of ARM are not proven to compute this graph "
            f"rightly: {first.subject} {first.text.removesuffix('.')}{more}.",
            "Compare its outputs there: `tflite-export benchmark` after "
            "`make arm`.",
            is_blocking=False,
        )
    ]


def _run_findings(file: Flatbuffer, data: bytes) -> list[Finding]:
    findings = untried(file)
    if findings:
        return findings
    inputs = interpreter.zero_inputs(file)
    for reference in (False, True):
        kernels = "reference kernels" if reference else "XNNPACK"
        try:
            interpreter.run(
                data,
                inputs,
                reference_kernels=reference,
                time_limit_s=TIME_LIMIT_S,
            )
        except ValueError as error:
            findings.append(
                run_failure(
                    f"LiteRT with {kernels}",
                    file,
                    error,
                    # Only the reference kernels lack an int8 TILE.
                    is_blocking=bool(findings) or not reference,
                )
            )
    return findings


register_target(LiteRt())
