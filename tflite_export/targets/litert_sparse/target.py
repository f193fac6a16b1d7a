"""LiteRT on the ARM CPUs of phones, where zeros become speed.

The file computes in float32; its 1x1 convolutions hold the trained integers
sparsely (CSR), which XNNPACK multiplies with its sparse kernels. The graph must
be of a kind that it runs rightly: `sparse_inference.py` proves that.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tflite_export.format.edits import densify
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.sparse import smallest_encoding
from tflite_export.targets.findings import CheckReport, Finding, operator_counts
from tflite_export.targets.litert_sparse.topology import (
    is_computed_sparsely,
    topology_findings,
)
from tflite_export.verification.report import VerificationReport
from tflite_export.weights.sites import unpacked_constants, weight_sites

TARGET = "litert-sparse"
# XNNPACK takes the sparse kernels above this fraction of zeros.
MIN_SPARSITY = 2 / 3
# float32 sums in another order, relative to the range of the output: usually
# below 1e-6, and 1e-5 in random networks of 50 layers. A wrong layout leaves
# 0.06 and more.
MAX_DIFFERENCE = 1e-5
MAX_ROUNDING = 1e-4
# The operator, its tensor and the tables of a sparse tensor (measured).
DENSIFY_OVERHEAD_BYTES = 300


@dataclasses.dataclass(frozen=True)
class ArmReport:
    """What an emulated phone computed; `str()` is one line.

    Attributes:
        differences: By CPU, the largest difference of an output from the
            model's, in units of its range.
        num_samples: Samples that the file was run on.
        instructions: Of one inference on the first CPU.
        dense_instructions: The same with the kernels for dense weights.

    Example:

    >>> print(ArmReport({"cortex-a53": 2.5e-07}, 16, 4_950_000, 17_670_000))
    on ARM (QEMU), 16 samples: cortex-a53 within 2.5e-07 of the output range; \
4,950,000 instructions, 17,670,000 without sparse kernels
    """

    differences: Mapping[str, float]
    num_samples: int
    instructions: int
    dense_instructions: int

    def __str__(self) -> str:
        """Returns one line."""
        texts = [
            f"{cpu} within {difference:.1e}"
            for cpu, difference in self.differences.items()
        ]
        return (
            f"on ARM (QEMU), {self.num_samples} samples: {', '.join(texts)} of "
            f"the output range; {self.instructions:,} instructions, "
            f"{self.dense_instructions:,} without sparse kernels"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return {
            **dataclasses.asdict(self),
            "differences": dict(self.differences),
        }


class ZeroCount(NamedTuple):
    """The weights that decide whether the sparse kernels are taken."""

    num_zeros: int
    num_weights: int
    num_dense_zeros: int
    num_dense_weights: int

    @property
    def pointwise(self) -> float:
        """Fraction of zeros over all 1x1 convolutions."""
        return self.num_zeros / max(self.num_weights, 1)

    @property
    def with_dense(self) -> float:
        """The same with the Dense layers, which newer versions count."""
        return (self.num_zeros + self.num_dense_zeros) / max(
            self.num_weights + self.num_dense_weights, 1
        )


def store(file: Flatbuffer) -> list[str]:
    """Stores the codes of a float file sparsely where that is smaller.

    XNNPACK unpacks both forms when it loads the file, and needs a single sparse
    weight to take its sparse kernels for all: size alone decides.

    Args:
        file: A file with dense codes in front of DEQUANTIZE; it is changed.

    Returns:
        A note for each weight tensor.

    Raises:
        ValueError: If XNNPACK would run the graph wrongly, or not sparsely.
    """
    require(topology_findings(file))
    require(zero_findings(zero_count(file)))
    notes = []
    tensors = {
        (site.site.subgraph, site.tensor.index): site
        for site in weight_sites(file)
    }
    for (subgraph, index), site in tensors.items():
        codes = site.slot.codes
        sparse = smallest_encoding(codes)
        size = sparse.size_bytes + DENSIFY_OVERHEAD_BYTES
        sparsity = float(np.mean(codes == 0))
        shape = "x".join(map(str, codes.shape))
        name = f"{site.operator.name} {shape} ({sparsity:.0%} zeros)"
        if size < codes.size:
            densify(file, subgraph, index, sparse)
            text = f"sparse; {size:,} of {codes.size:,} bytes"
        else:
            text = f"int8; sparse would need {size:,} of {codes.size:,} bytes"
        notes.append(f"{name}: {text}.")
    if not is_computed_sparsely(file):
        raise ValueError(
            f"A file for {TARGET!r} must hold a weight that is smaller as a "
            "sparse tensor. Received: a model whose 1x1 convolutions are all "
            "too small. Use `target='litert'`."
        )
    return notes


def require(findings: Sequence[Finding]) -> None:
    """Raises an error that lists the findings, if there are any.

    Args:
        findings: What is wrong.
    """
    if findings:
        raise ValueError(
            "XNNPACK must run the whole graph with its sparse kernels; some "
            "graphs that it cannot run so it computes wrongly, without a "
            "message. Received:\n"
            + "\n".join(f"- {f.subject} {f.text} {f.remedy}" for f in findings)
            + "\nOr use `target='litert'`."
        )


def arm_tolerance(report: VerificationReport) -> float:
    """Returns how far outputs on ARM may be from the model's.

    Args:
        report: The comparison on this machine, which shows how the network
            amplifies the rounding of float32.
    """
    return max(MAX_DIFFERENCE, 3 * report.max_output_lsb)


def require_equal(
    report: VerificationReport, cpu: str, *, tolerance: float
) -> None:
    """Raises an error if a float file does not compute what the model does.

    Args:
        report: The comparison of the file, run on one CPU, with the model.
        cpu: The CPU, as the text calls it.
        tolerance: Largest difference, in units of the output's range.
    """
    if not report.max_output_lsb <= tolerance:
        raise ValueError(
            f"The outputs of the file must be those of the model within "
            f"{tolerance:.1g} of their range. Received: "
            f"{report.max_output_lsb:.1e} on {cpu}; the file was not written. "
            "Activations that were quantized in training are not computed in "
            f"float: train without them for {TARGET!r}, or use "
            "`target='litert'`."
        )


def require_faster(report: ArmReport) -> None:
    """Raises an error if XNNPACK did not take its sparse kernels.

    Args:
        report: What was measured.
    """
    if report.instructions >= report.dense_instructions:
        raise ValueError(
            "Sparse kernels must execute fewer instructions than dense ones. "
            f"Received: {report.instructions:,} and "
            f"{report.dense_instructions:,}: XNNPACK runs this graph densely. "
            "Please report the model, and use `target='litert'`."
        )


def check_model_file(data: bytes) -> CheckReport:
    """Says whether the graph of an untrained model can run sparsely.

    Args:
        data: The converted file, in float32; its weights do not matter.

    Returns:
        `CheckReport`, which says how many zeros the training has to reach.
    """
    file = Flatbuffer(data)
    findings = topology_findings(file)
    count = zero_count(file)
    if not findings:
        note = Finding(
            "zeros",
            f"more than {MIN_SPARSITY:.1%} of the weights of all 1x1 "
            f"convolutions must become zero (now {count.pointwise:.1%} of "
            f"{count.num_weights:,}), and with the Dense layers as well (now "
            f"{count.with_dense:.1%}).",
            "Train with `CompressionBudget(sparsity=0.8)` or more.",
            is_blocking=False,
        )
        findings = (note,)
    return CheckReport(TARGET, {"CPU": operator_counts(file)}, findings, {})


def check_file(data: bytes) -> CheckReport:
    """Says whether a finished file runs rightly with the sparse kernels.

    Args:
        data: The file.

    Returns:
        `CheckReport`.
    """
    file = Flatbuffer(data)
    count = zero_count(file)
    findings = [*topology_findings(file), *zero_findings(count)]
    if not is_computed_sparsely(file):
        finding = Finding(
            "weights",
            "none is sparse, so XNNPACK takes its dense kernels.",
            f"Export with `target={TARGET!r}`.",
        )
        findings.append(finding)
    facts = {"zeros in 1x1 convolutions": round(count.pointwise, 4)}
    placement = {"CPU": operator_counts(file)}
    return CheckReport(TARGET, placement, tuple(findings), facts)


def zero_count(file: Flatbuffer) -> ZeroCount:
    """Counts the zeros in the 1x1 convolutions and the Dense layers.

    Args:
        file: The file.
    """
    constants = unpacked_constants(file)
    zeros: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for operator in file.operators:
        if operator.name not in ("CONV_2D", "FULLY_CONNECTED"):
            continue
        key = (operator.subgraph, operator.inputs[1])
        weights = constants.get(key) or file.tensor(*key)
        if operator.name == "CONV_2D" and weights.shape[1:3] != (1, 1):
            continue
        if weights.data is not None:
            zeros[operator.name] += int(np.count_nonzero(weights.data == 0))
            sizes[operator.name] += weights.data.size
    return ZeroCount(
        *(zeros["CONV_2D"], sizes["CONV_2D"]),
        *(zeros["FULLY_CONNECTED"], sizes["FULLY_CONNECTED"]),
    )


def zero_findings(count: ZeroCount) -> tuple[Finding, ...]:
    """Says if a file has too few zeros for the sparse kernels.

    Args:
        count: From `zero_count`.
    """
    if count.pointwise > MIN_SPARSITY and count.with_dense > MIN_SPARSITY:
        return ()
    finding = Finding(
        "zeros",
        f"{count.pointwise:.1%} of the weights of all 1x1 convolutions are "
        f"zero, and {count.with_dense:.1%} with the Dense layers. XNNPACK "
        "takes its sparse kernels above 66.7 %.",
        "Train with `CompressionBudget(sparsity=0.8)` or more.",
    )
    return (finding,)
