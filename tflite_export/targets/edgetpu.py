"""Coral Edge TPU: checks a file against the documented rules.

The rules are those of compiler 16.0, the last one. All operators after the
first that breaks a rule run on the CPU. An installed compiler is run too, and
its verdict is added.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.operators import EDGE_TPU
from tflite_export.format.records import Operator, Tensor
from tflite_export.targets.findings import (
    CheckReport,
    Finding,
    compiled_report,
    operator_counts,
    storage_findings,
)
from tflite_export.targets.target import (
    PACKED_REFUSALS,
    Target,
    register_target,
)

TIME_LIMIT_S = 180.0
# The cache for weights, without the part that the executable takes.
CACHE_BYTES = 7 * 2**20
_COMPILER = "edgetpu_compiler"
_MAX_SOFTMAX = 16_000
_MAX_RANK = 3
# Newest version of each operator in TensorFlow 2.5, from that release's table
# `tensorflow/lite/tools/versioning/runtime_version.cc`. The last compiler
# (16.0, July 2021) and its runtime were built on it, and refuse newer versions
# ("Didn't find op for builtin opcode 'CONV_2D' version '6'"). Types that newer
# versions added (int16, int4) are refused by type.
_MAX_VERSIONS = {
    "ADD": 3,
    "AVERAGE_POOL_2D": 3,
    "CONCATENATION": 3,
    "CONV_2D": 5,
    "DEPTHWISE_CONV_2D": 6,
    "DEQUANTIZE": 4,
    "EXPAND_DIMS": 1,
    "FULLY_CONNECTED": 9,
    "L2_NORMALIZATION": 2,
    "LOGISTIC": 3,
    "MAX_POOL_2D": 3,
    "MAXIMUM": 4,
    "MEAN": 3,
    "MINIMUM": 4,
    "MUL": 4,
    "PACK": 3,
    "PAD": 3,
    "PRELU": 1,
    "QUANTIZE": 2,
    "REDUCE_MAX": 3,
    "REDUCE_MIN": 3,
    "RELU": 3,
    "RELU6": 3,
    "RELU_N1_TO_1": 1,
    "RESHAPE": 1,
    "RESIZE_BILINEAR": 4,
    "RESIZE_NEAREST_NEIGHBOR": 4,
    "RSQRT": 2,
    "SLICE": 5,
    "SOFTMAX": 3,
    "SPACE_TO_DEPTH": 2,
    "SPLIT": 4,
    "SQUARED_DIFFERENCE": 2,
    "SQUEEZE": 2,
    "STRIDED_SLICE": 5,
    "SUB": 5,
    "SUM": 2,
    "TANH": 3,
    "TRANSPOSE": 5,
    "TRANSPOSE_CONV": 3,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 3,
}
# At the ends of a graph these stay on the CPU without harm.
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "PAD")
_LOG_LINE = re.compile(r"^([A-Z0-9_]+)\s+(\d+)\s+(.+)$", re.MULTILINE)


class EdgeTpu(Target):
    """Coral's Edge TPU, by its documented rules."""

    name = "edgetpu"
    title = "the Edge TPU"
    refused_storages: Mapping[str, str] = {
        "int4": "It has no int4 weights. Nothing but narrower layers makes it "
        "faster.",
        "sparse": "It has no sparse weights. Nothing but narrower layers makes "
        "it faster.",
        **PACKED_REFUSALS,
    }
    devices = ("edgetpu",)

    def check(self, data: bytes) -> CheckReport:
        """Checks a file by the device's rules, and by its compiler."""
        file = Flatbuffer(data)
        compiled = compiled_report(self.name, file, EDGE_TPU, "Edge TPU")
        if compiled is not None:
            return compiled
        findings = storage_findings(file, self.title)
        for operator in file.operators:
            findings += [
                Finding(f"{operator.name} (operator {operator.index})", *reason)
                for reason in _broken_rules(file, operator)
            ]
            findings += _dense_finding(file, operator)
        size = sum(tensor.size_bytes for tensor in file.tensors())
        if size > CACHE_BYTES:
            findings.append(
                Finding(
                    "weights",
                    f"{size:,} bytes do not fit into the cache of about "
                    f"{CACHE_BYTES:,}; the rest is fetched for each inference.",
                    "Make layers narrower; zeros and few bits do not help.",
                    is_blocking=False,
                )
            )
        is_blocked = any(f.is_blocking for f in findings)
        findings.append(_compiler_finding(data))
        placement = {"CPU" if is_blocked else "Edge TPU": operator_counts(file)}
        facts = {"weight_bytes": float(size)}
        return CheckReport(self.name, placement, tuple(findings), facts)


def _broken_rules(
    file: Flatbuffer, operator: Operator
) -> Iterator[tuple[str, str]]:
    """The faults of an operator, each with its remedy."""
    newest = _MAX_VERSIONS.get(operator.name)
    if newest is None:
        yield (
            "is no operator of the Edge TPU.",
            "Replace its layer; this operator and all after it run on the CPU.",
        )
        return
    if operator.version > newest:
        yield (
            f"has version {operator.version}; the last compiler knows "
            f"{newest}.",
            "Replace its layer by a simpler one.",
        )
    tensors = [
        file.tensor(operator.subgraph, index)
        for index in (*operator.inputs, *operator.outputs)
        if index >= 0
    ]
    for tensor in tensors:
        yield from _broken_tensor_rules(operator, tensor)
    yield from _broken_operator_rules(file, operator)


def _broken_tensor_rules(
    operator: Operator, tensor: Tensor
) -> Iterator[tuple[str, str]]:
    is_float_end = operator.name in _CONVERSIONS and tensor.dtype == "float32"
    if tensor.dtype not in ("int8", "uint8", "int32") and not is_float_end:
        yield (
            f"has tensor {tensor.name!r} of type {tensor.dtype}.",
            "Only int8 and int32 (biases, shapes) run there.",
        )
    if min(tensor.shape, default=1) < 1:
        yield (
            f"has tensor {tensor.name!r} of the open shape {tensor.shape}.",
            "Export with a fixed input shape.",
        )
    outer = tensor.shape[:-_MAX_RANK]
    if tensor.data is None and any(size != 1 for size in outer):
        yield (
            f"has tensor {tensor.name!r} of shape {tensor.shape}.",
            f"Only the last {_MAX_RANK} axes may be larger than 1.",
        )


def _broken_operator_rules(
    file: Flatbuffer, operator: Operator
) -> Iterator[tuple[str, str]]:
    inputs = [
        file.tensor(operator.subgraph, index) if index >= 0 else None
        for index in operator.inputs
    ]
    if operator.name == "FULLY_CONNECTED" and inputs[1] is not None:
        if inputs[1].data is None:
            yield "has weights that are computed.", "Use constant weights."
    if operator.name == "SOFTMAX" and inputs[0] is not None:
        if max(inputs[0].shape, default=1) > _MAX_SOFTMAX:
            yield (
                f"has an axis above {_MAX_SOFTMAX:,}.",
                "Leave the softmax out and take the largest logit.",
            )
    if operator.name in _REDUCTIONS and len(inputs) > 1:
        axes = inputs[1].data if inputs[1] is not None else None
        is_batch = axes is not None and operator.name != "PAD" and 0 in axes
        if is_batch:
            yield "reduces the batch.", "Reduce other axes."


def _dense_finding(file: Flatbuffer, operator: Operator) -> list[Finding]:
    if operator.name != "FULLY_CONNECTED":
        return []
    num_scales = file.tensor(operator.subgraph, operator.inputs[1]).scales.size
    if num_scales <= 1:
        return []
    # No document says that this is refused.
    return [
        Finding(
            f"FULLY_CONNECTED (operator {operator.index})",
            f"has {num_scales} scales; the TFLite of the compiler knew one.",
            "Quantize the layer with `axis=None`, without a "
            "BatchNormalization after it.",
            is_blocking=False,
        )
    ]


def _compiler_finding(data: bytes) -> Finding:
    if shutil.which(_COMPILER) is None:
        return Finding(
            _COMPILER,
            "was not found; these are its documented rules only.",
            "Install it to be certain.",
            is_blocking=False,
        )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.tflite").write_bytes(data)
        try:
            child = subprocess.run(
                [_COMPILER, "-s", "-o", folder, f"{folder}/model.tflite"],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIME_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            text = f"gave no result in {TIME_LIMIT_S:g} s."
            return Finding(_COMPILER, text, "Make the model smaller.")
    return parse_log(child.stdout, succeeded=child.returncode == 0)


def parse_log(log: str, *, succeeded: bool) -> Finding:
    """Returns the operators on the CPU by the compiler's log (option `-s`).

    Example:

    >>> log = "CONV_2D  5  Mapped to Edge TPU"
    >>> parse_log(log, succeeded=True).is_blocking
    False
    """
    unmapped = [
        f"{count} {name} ({status.strip()})"
        for name, count, status in _LOG_LINE.findall(log)
        if not status.startswith("Mapped to Edge TPU")
    ]
    if not succeeded:
        lines = log.strip().splitlines() or ["no message"]
        return Finding(_COMPILER, f"failed: {lines[-1]}.", "See its log.")
    if unmapped:
        text = f"leaves on the CPU: {', '.join(unmapped)}."
        return Finding(_COMPILER, text, "Replace these layers.")
    return Finding(
        _COMPILER, "maps every operator.", "Nothing to do.", is_blocking=False
    )


register_target(EdgeTpu())
