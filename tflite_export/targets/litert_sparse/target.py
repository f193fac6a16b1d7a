"""LiteRT on the ARM CPUs of phones, where zeros become speed.

The file computes in float32. Its 1x1 convolutions hold the trained codes
sparsely (CSR), for XNNPACK's sparse kernels. XNNPACK runs some graphs wrongly:
`topology` proves that this is none.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tflite_export import arm
from tflite_export.format.edits import densify
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.sparse import smallest_encoding
from tflite_export.targets.findings import (
    CheckReport,
    Finding,
    operator_counts,
)
from tflite_export.targets.litert_sparse.emulation import (
    MAX_ROUNDING,
    measure_on_arm,
    require_equal,
)
from tflite_export.targets.litert_sparse.padding import pad_symmetrically
from tflite_export.targets.litert_sparse.topology import (
    is_computed_sparsely,
    topology_findings,
)
from tflite_export.targets.litert_sparse.zeros import (
    MIN_SPARSITY,
    zero_count,
    zero_findings,
)
from tflite_export.targets.litert_storage import DENSIFY_OVERHEAD_BYTES
from tflite_export.targets.target import (
    PACKED_REFUSALS,
    PHONE_DEVICES,
    Package,
    ProvenFile,
    Target,
    register_target,
)
from tflite_export.weights.float_graph import write_float_codes
from tflite_export.weights.sites import weight_sites

if TYPE_CHECKING:
    from tflite_export.conversion.exact import ConvertedModel
    from tflite_export.trained_model import TrainedModel

_NAME = "litert-sparse"
_REFUSAL = (
    "Its sparse kernels decide the form of each tensor. `target='litert'` "
    "takes the others."
)


class LiteRtSparse(Target):
    """XNNPACK's sparse float kernels, for networks such as MobileNet."""

    name = _NAME
    title = "LiteRT with sparse kernels"
    storages = ("auto",)
    refused_storages: Mapping[str, str] = {
        **dict.fromkeys(("int8", "int4", "sparse"), _REFUSAL),
        **PACKED_REFUSALS,
    }
    io_dtypes = ("float32",)
    devices = PHONE_DEVICES
    weighs_codes = False

    def convert(self, trained: "TrainedModel") -> "ConvertedModel":
        """Converts a model to float32, with the trained codes."""
        from tflite_export.conversion.exact import ConvertedModel

        file, notes = _converted(trained)
        require_none(topology_findings(file))
        written = write_float_codes(file, trained.weights, trained.kernels)
        return ConvertedModel(
            file, [*written.notes, *notes], written.silent_channels
        )

    def store(self, file: Flatbuffer, weight_storage: str) -> list[str]:
        """Stores codes sparsely where that is smaller.

        XNNPACK unpacks both forms when it loads the file, and takes its sparse
        kernels for all weights if one is sparse. So size alone decides.
        """
        require_none(topology_findings(file))
        require_none(zero_findings(zero_count(file)))
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
                text = (
                    f"int8; sparse would need {size:,} of {codes.size:,} bytes"
                )
            notes.append(f"{name}: {text}.")
        if not is_computed_sparsely(file):
            raise ValueError(
                f"A file for {_NAME!r} must hold a weight that is smaller as a "
                "sparse tensor. Received: a model whose 1x1 convolutions are "
                "all too small. Use `target='litert'`."
            )
        return notes

    def package(self, proven: ProvenFile, trained: "TrainedModel") -> Package:
        """Proves equal outputs here, and on ARM if the emulation is set up."""
        require_equal(
            proven.verification, "this machine", tolerance=MAX_ROUNDING
        )
        reason = arm.missing()
        if reason is not None:
            note = f"Not verified on ARM: {reason}"
            return Package(proven.data, notes=(note,))
        return Package(proven.data, device=measure_on_arm(proven, trained))

    def check(self, data: bytes) -> CheckReport:
        """Says whether the sparse kernels compute a finished file rightly."""
        file = Flatbuffer(data)
        count = zero_count(file)
        findings = [*topology_findings(file), *zero_findings(count)]
        if not is_computed_sparsely(file):
            finding = Finding(
                "weights",
                "none is sparse, so XNNPACK takes its dense kernels.",
                f"Export with `target={_NAME!r}`.",
            )
            findings.append(finding)
        facts = {"zeros in 1x1 convolutions": round(count.pointwise, 4)}
        placement = {"CPU": operator_counts(file)}
        return CheckReport(_NAME, placement, tuple(findings), facts)

    def check_model(self, trained: "TrainedModel") -> CheckReport:
        """Says whether a graph can run sparsely, and how many zeros it needs.

        The weights of the model do not matter.
        """
        try:
            file, _ = _converted(trained)
        except (ValueError, RuntimeError) as error:
            return self.refusal(error)
        findings = topology_findings(file)
        count = zero_count(file)
        if not findings:
            note = Finding(
                "zeros",
                f"more than {MIN_SPARSITY:.1%} of the weights of all 1x1 "
                f"convolutions must become zero (now {count.pointwise:.1%} of "
                f"{count.num_weights:,}), and with the Dense layers as well "
                f"(now {count.with_dense:.1%}).",
                "Train with `CompressionBudget(sparsity=0.8)` or more.",
                is_blocking=False,
            )
            findings = (note,)
        return CheckReport(_NAME, {"CPU": operator_counts(file)}, findings, {})


def _converted(trained: "TrainedModel") -> tuple[Flatbuffer, list[str]]:
    """A float32 file with the padding of sparse kernels, and notes on that."""
    from tflite_export.conversion.converter import convert_float
    from tflite_export.conversion.exact import require_tensorflow_backend
    from tflite_export.conversion.graphs import inference_graph
    from tflite_export.samples import random_samples

    require_tensorflow_backend()
    if trained.fake_quantizes:
        raise ValueError(
            f"`target={_NAME!r}` must get a model that computes in float. "
            "Received: a model of TFMOT, whose activations are quantized. "
            "Use `target='litert'`, or train with `codeq_keras.quantize_model`."
        )
    # The converter needs their shapes.
    samples = trained.samples or random_samples(trained.inputs, 1)
    graph = inference_graph(trained.plain)
    file = Flatbuffer(convert_float(graph, trained.inputs, samples))
    return file, pad_symmetrically(file)


def require_none(findings: Sequence[Finding]) -> None:
    """Raises an error that lists the findings, if there are any."""
    if findings:
        raise ValueError(
            "XNNPACK must run the whole graph with its sparse kernels: it "
            "computes some other graphs wrongly, without a message. "
            "Received:\n"
            + "\n".join(f"- {f.subject} {f.text} {f.remedy}" for f in findings)
            + "\nOr use `target='litert'`."
        )


register_target(LiteRtSparse())
