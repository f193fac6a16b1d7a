"""LiteRT on phones and single-board computers: what it misreads silently.

Its loader checks little: a sparse weight that a kernel does not expect is read
as a dense one. What is wrong or slow was measured with LiteRT 2.3.
"""

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Operator, Tensor
from tflite_export.runtime import interpreter
from tflite_export.targets.findings import CheckReport, Finding, operator_counts
from tflite_export.targets.litert_sparse.topology import (
    is_computed_sparsely,
    topology_findings,
)
from tflite_export.weights.sites import float_operators

TIME_LIMIT_S = 60.0
# The newest version without which XNNPACK takes the weights for dense ones.
_MAX_SPARSE_DENSE_VERSION = 8
_SLOW_INT4 = ("CONV_2D", "DEPTHWISE_CONV_2D")
_NO_INT4 = ("TRANSPOSE_CONV",)


def check_file(data: bytes) -> CheckReport:
    """Says whether LiteRT runs a file right, by its rules and by running it.

    Args:
        data: The file.

    Returns:
        `CheckReport`.
    """
    file = Flatbuffer(data)
    findings = []
    for operator in file.operators:
        for index in operator.inputs:
            if index >= 0:
                tensor = file.tensor(operator.subgraph, index)
                findings += _weight_findings(operator, tensor)
    if is_computed_sparsely(file):
        # Only ARM takes the way that goes wrong, so a run here says nothing.
        findings += topology_findings(file)
    findings += [
        Finding(
            name,
            f"computes in float32 ({count} operators).",
            "Replace its layer by one with an int8 kernel.",
            is_blocking=False,
        )
        for name, count in float_operators(file).items()
    ]
    if not any(finding.is_blocking for finding in findings):
        findings += _run_findings(file, data)
    return CheckReport(
        "litert", {"CPU": operator_counts(file)}, tuple(findings), {}
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


def _run_findings(file: Flatbuffer, data: bytes) -> list[Finding]:
    findings: list[Finding] = []
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
                Finding(
                    f"LiteRT with {kernels}",
                    f"does not run the file. {error}",
                    "Replace the layer whose operator it names.",
                    # The reference kernels lack an int8 TILE, which runs.
                    is_blocking=bool(findings) or not reference,
                )
            )
    return findings
