"""The parts of the HTML page of an ExportResult."""

from typing import TYPE_CHECKING, Any

from tflite_export.tables import as_blocks

if TYPE_CHECKING:
    from codeq_keras.reports import Block, Fact


def export_blocks(result: Any) -> "list[Block]":
    """Returns what is to be read of an export, the most important first."""
    from codeq_keras.reports import Facts, Lines, bytes_grid

    device = [] if result.device is None else [str(result.device)]
    others = [f"also written: {text}" for text in result.other_names()]
    return [
        Facts(_facts(result)),
        Lines("Proof", result.verification.parts()),
        bytes_grid("Bytes of the file", result.bytes_by_kind),
        Lines("Device", [*device, *others]),
        *as_blocks(result.grouped_notes()),
    ]


def _facts(result: Any) -> "list[Fact]":
    from codeq_keras.reports import Fact

    proof = result.verification
    num_equal = proof.num_tensors - len(proof.unequal)
    facts = [
        Fact("file, bytes", f"{result.size_bytes:,}"),
        Fact(
            "trained integers",
            f"{num_equal} of {proof.num_tensors}",
            "tensors equal in the file",
        ),
    ]
    if proof.outputs:
        facts.append(
            Fact(
                "outputs within a step",
                f"{proof.within_one_lsb:.2%}",
                f"on {proof.num_samples} samples",
            )
        )
    if proof.outputs and proof.top1_agreement is not None:
        same = f"{proof.top1_agreement:.2%}"
        facts.append(Fact("same top class", same, "as the model"))
    for name, size in (
        ("gzip", result.gzip_size_bytes),
        ("zstd", result.zstd_size_bytes),
    ):
        if size is not None:
            facts.append(Fact(f"with {name}, bytes", f"{size:,}"))
    return facts
