"""LiteRT on phones and single-board computers.

Its loader checks little: a kernel reads an unexpected sparse weight as a dense
one, silently. The faults and the slow forms were measured with LiteRT 2.3.
"""

from collections import Counter
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


ACCELERATORS = ("cpu", "gpu", "npu")


class LiteRt(Target):
    """LiteRT on phones and single-board computers, with XNNPACK."""

    name = "litert"
    title = "LiteRT"
    storages: tuple[str, ...] = ("auto", "int8", "int4", "sparse")
    refused_storages: Mapping[str, str] = PACKED_REFUSALS
    io_dtypes = IO_DTYPES
    devices = PHONE_DEVICES
    reads_names = False
    settings: Mapping[str, str] = {
        "accelerator": "cpu, gpu or npu: what an app may ask for"
    }

    def __init__(self, accelerator: str = "cpu") -> None:
        self._is_dense = accelerator != "cpu"
        if self._is_dense:
            self.storages = ("auto", "int8")
            article = "a GPU" if accelerator == "gpu" else "an NPU"
            reason = f"Only the CPU reads it, not {article}."
            self.refused_storages = {
                "int4": reason,
                "sparse": reason,
                **PACKED_REFUSALS,
            }

    def configured(self, settings: Mapping[str, str]) -> "LiteRt":
        """Returns the target for apps that ask for an accelerator."""
        accelerator = settings["accelerator"]
        if accelerator not in ACCELERATORS:
            raise ValueError(
                f"The setting 'accelerator' must be one of {ACCELERATORS}. "
                f"Received: 'accelerator={accelerator}'."
            )
        return LiteRt(accelerator)

    def store(self, file: Flatbuffer, weight_storage: str) -> list[str]:
        """Stores each weight in the fewest bytes that run at full speed."""
        return store_weights(file, "int8" if self._is_dense else weight_storage)

    def package(self, proven: ProvenFile, trained: "TrainedModel") -> Package:
        """Proves that the storage does not change the outputs."""
        _require_same_outputs(proven, trained)
        notes = tuple(
            f"{f.subject} {f.text} {f.remedy}" for f in _cpu_only(proven.file)
        )
        return Package(proven.data, notes=notes)

    def check(self, data: bytes) -> CheckReport:
        """Says whether LiteRT runs a file right, by rules and by a run."""
        file = Flatbuffer(data)
        findings = []
        for operator in file.operators:
            for index in operator.inputs:
                if index >= 0:
                    tensor = file.tensor(operator.subgraph, index)
                    findings += _weight_findings(operator, tensor)
        findings += [*_sparse_notes(file), *_cpu_only(file)]
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


def _cpu_only(file: Flatbuffer) -> list[Finding]:
    """Notes on weights that the delegates for GPU and NPU do not read.

    By the sources of LiteRT: the GPU delegate claims each DENSIFY of a constant
    (`tflite/tools/versioning/gpu_compatibility.cc`), then fails on int8, since
    its `ObjectReader::ReadTensor` unpacks float16 and float32 only. A delegate
    that fails ends `CompiledModel::Create`, with or without the CPU
    (`litert/runtime/compiled_model.cc`). No rule there is on int4.
    """
    remedy = "For those export with `target='litert,accelerator=gpu'`."
    counts = Counter[str]()
    for operator in file.operators:
        held = [
            file.tensor(operator.subgraph, i) for i in operator.inputs if i >= 0
        ]
        counts["DENSIFY"] += (
            operator.name == "DENSIFY" and held[0].dtype == "int8"
        )
        counts["int4"] += any(t.dtype == "int4" and t.size_bytes for t in held)
    texts = {
        "DENSIFY": "unpack int8 weights on the CPU: by its source, the GPU "
        "delegate fails on them, and an app gets no model even if it allows "
        "the CPU as well.",
        "int4": "weights are for the CPU: no documented rule says that GPU and "
        "NPU delegates run them.",
    }
    return [
        Finding(f"{counts[kind]} {kind}", text, remedy, is_blocking=False)
        for kind, text in texts.items()
        if counts[kind]
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
