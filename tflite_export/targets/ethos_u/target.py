"""Arm Ethos-U: files that Vela compiles without a fallback to the CPU.

Vela compresses the stream of weights itself. It needs a dense int8 file with
zeros and few levels, and cannot read sparse and int4 tensors.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.operators import ETHOS_U
from tflite_export.inspection import entropy_bits
from tflite_export.targets.ethos_u.pattern import pattern_notes
from tflite_export.targets.ethos_u.vela import EthosUReport, compile_file
from tflite_export.targets.findings import (
    CheckReport,
    Finding,
    compiled_report,
    operator_counts,
    storage_findings,
)
from tflite_export.targets.target import (
    PACKED_REFUSALS,
    Package,
    ProvenFile,
    Target,
    register_target,
)
from tflite_export.weights.sites import weight_sites

if TYPE_CHECKING:
    from tflite_export.trained_model import TrainedModel

_ADVICE = "Dense int8 is what it compresses itself."
# Multiply-accumulates per cycle by generation, the most common one first.
_GENERATIONS = {
    "ethos-u55": (128, 32, 64, 256),
    "ethos-u65": (256, 512),
    "ethos-u85": (256, 128, 512, 1024, 2048),
}

ACCELERATORS = tuple(
    f"{generation}-{macs}"
    for generation, sizes in _GENERATIONS.items()
    for macs in sizes
)


class EthosU(Target):
    """One of Arm's microNPUs; `accelerator` is a size, as `"ethos-u55-128"`."""

    title = "Ethos-U"
    refused_storages: Mapping[str, str] = {
        "int4": f"Its compiler crashes on int4 weights. {_ADVICE}",
        "sparse": "Its compiler ignores the sparsity and misreads the tensor. "
        f"{_ADVICE}",
        **PACKED_REFUSALS,
    }

    def __init__(
        self, name: str, accelerator: str, *, is_variant: bool = True
    ) -> None:
        self.name = name
        self.accelerator = accelerator
        self.is_variant = is_variant
        self.devices = (accelerator,)
        self.skips_pattern = accelerator.startswith("ethos-u85")

    def deployed(self, data: bytes) -> bytes:
        """Returns the file that Vela compiles."""
        return compile_file(data, accelerator=self.accelerator).compiled

    def weight_bytes(self, file: Flatbuffer) -> list[float]:
        """Shares those out by entropy: Vela codes all weights alike."""
        all_codes = [site.slot.codes for site in weight_sites(file)]
        bits = [
            codes.size * entropy_bits(np.unique(codes, return_counts=True)[1])
            for codes in all_codes
        ]
        num_bytes = len(self.deployed(file.to_bytes()))
        return [num_bytes * each / max(sum(bits), 1.0) for each in bits]

    def package(self, proven: ProvenFile, trained: "TrainedModel") -> Package:
        """Adds the file that Vela compiled; a fallback is an error."""
        report = compile_file(proven.data, accelerator=self.accelerator)
        require_no_fallback(report)
        others = {f"{proven.name}_vela.tflite": report.compiled}
        notes = pattern_notes(proven.file, trained)
        return Package(proven.data, others, report, tuple(notes))

    def check(self, data: bytes) -> CheckReport:
        """Says which operators of a file run on the NPU, by compiling it."""
        file = Flatbuffer(data)
        compiled = compiled_report(self.name, file, ETHOS_U, "NPU")
        if compiled is not None:
            return compiled
        findings = storage_findings(file, self.title)
        if findings:
            return CheckReport(self.name, {}, tuple(findings), {})
        report = compile_file(data, accelerator=self.accelerator)
        on_npu, on_cpu = operator_counts(file), dict[str, int]()
        for operator, tensor, reason in report.cpu_operators:
            on_npu[operator] = on_npu.get(operator, 0) - 1
            on_cpu[operator] = on_cpu.get(operator, 0) + 1
            findings.append(
                Finding(
                    f"{operator} {tensor!r}",
                    f"falls back to the CPU: {reason}.",
                    "Replace the layer by one that Vela supports.",
                )
            )
        unexplained = report.num_cpu_operators - len(report.cpu_operators)
        if unexplained > 0:
            text = "fall back to the CPU, and Vela gives no reason."
            remedy = "Compile the file with Vela to see its log."
            findings.append(Finding(f"{unexplained} more", text, remedy))
        placement = {
            "NPU": {name: n for name, n in on_npu.items() if n > 0},
            "CPU": on_cpu,
        }
        facts: Mapping[str, float] = report.to_dict()
        if not report.num_npu_operators:
            # Zero cycles of what does not run there would mislead.
            placement, facts = {"CPU": operator_counts(file)}, {}
        return CheckReport(
            self.name,
            {place: counts for place, counts in placement.items() if counts},
            tuple(findings),
            facts,
        )


def ethos_u_targets() -> Iterator[EthosU]:
    """Yields the family, each size, and each generation at a common size."""
    yield EthosU("ethos-u", ACCELERATORS[0], is_variant=False)
    for accelerator in ACCELERATORS:
        yield EthosU(accelerator, accelerator)
    for generation, sizes in _GENERATIONS.items():
        yield EthosU(generation, f"{generation}-{sizes[0]}")


def require_no_fallback(report: EthosUReport) -> None:
    """Raises an error if an operator would run on the CPU."""
    if not report.num_cpu_operators:
        return
    reasons = [
        f"- {operator} {tensor!r}: {reason}"
        for operator, tensor, reason in report.cpu_operators
    ]
    raise ValueError(
        f"All operators must run on {report.accelerator}. Received: "
        f"{report.num_cpu_operators} that fall back to the CPU. Replace their "
        "layers, or export with `target='tflm'`.\n" + "\n".join(reasons)
    )


for _target in ethos_u_targets():
    register_target(_target)
