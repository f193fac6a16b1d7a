"""Cycles on Ethos-U by Vela's model: dense, zeros anywhere, and 2:4.

    python benchmarks structured_sparsity [--accelerators ethos-u85-256 ...]

A ResNet-8 with four times its channels, random 4-bit codes, and half of them
zeros in all kernels but the first: at random places, or 2 of each 4 input
channels (`sparsity_pattern="2:4"`). Vela sees only where the zeros are, so
accuracy is no subject here. Cycles are those of its model of the hardware, not
of silicon.
"""

from collections.abc import Sequence

import keras
import networks
from harness import cli, files, provenance, results
from harness.codes import give_random_codes

import codeq_keras
import tflite_export
from tflite_export.samples import model_inputs, random_samples
from tflite_export.targets.ethos_u.vela import EthosUReport, compile_file

WIDTH, SMOKE_WIDTH = 64, 16
NUM_SAMPLES = 8
SEED = 0
_BASE = {"bit_width": 4, "level_grid": "uniform"}
# The fraction of zeros at random places, and the pattern.
FORMS: dict[str, tuple[float, str | None]] = {
    "dense": (0.0, None),
    "50 % zeros anywhere": (0.5, None),
    "2:4": (0.0, "2:4"),
}
_REFERENCE = "50 % zeros anywhere"
COLUMNS = (
    "accelerator",
    "weights",
    "zeros",
    "cycles",
    "ratio",
    "of arithmetic",
    "bits a weight",
)


def main(argv: Sequence[str]) -> None:
    """Compiles each form for each accelerator and writes a table."""
    name = "structured_sparsity"
    args = cli.parse(
        name,
        __doc__,
        argv,
        smoke={"accelerators": ["ethos-u85-256"], "width": SMOKE_WIDTH},
        accelerators=["ethos-u55-128", "ethos-u85-256", "ethos-u85-1024"],
        width=WIDTH,
    )
    forms = {form: exported(form, args.width) for form in FORMS}
    rows: list[Sequence[str]] = []
    for accelerator in args.accelerators:
        reports = {
            form: compile_file(data, accelerator=accelerator)
            for form, (data, _) in forms.items()
        }
        zeros = {form: zero for form, (_, zero) in forms.items()}
        rows += rows_of(accelerator, reports, zeros)
    results.write_page(
        args.output / f"{name}.md",
        "Cycles of 2:4 zeros on Ethos-U",
        f"{provenance.line('ethos-u-vela', 'tensorflow', seeds=[SEED])}; "
        f"ResNet-8 of {args.width} to {4 * args.width} channels, 32x32x3, "
        f"random weights. `python benchmarks {name}`",
        f"Ratios are to {_REFERENCE}. Cycles are those of Vela's model of the "
        "hardware, not of silicon.",
        results.table(COLUMNS, rows),
    )
    print(results.table(COLUMNS, rows))


def exported(form: str, width: int) -> tuple[bytes, float]:
    """Returns the file of a form, and its fraction of zeros."""
    zeros, pattern = FORMS[form]
    keras.utils.set_random_seed(SEED)
    widths = networks.scaled(networks.RESNET_WIDTHS, width / 16)
    net = networks.resnet8(widths=widths)
    give_random_codes(net, zeros, SEED, dense=("stem/kernel",))
    samples = random_samples(model_inputs(net), NUM_SAMPLES)
    # So that no activation dies or explodes.
    codeq_keras.reestimate_batch_norm(net, samples)
    dense = codeq_keras.CoDeQConfig(**_BASE)
    qmodel = codeq_keras.quantize_model(
        net,
        codeq_keras.CoDeQConfig(**_BASE, sparsity_pattern=pattern),
        overrides={"^stem/": dense},
    )
    data, _ = files.to_bytes(
        tflite_export.export,
        qmodel,
        target="ethos-u85-256",  # It proves the pattern in the file.
        representative_dataset=samples,
    )
    return data, codeq_keras.report(qmodel).sparsity


def rows_of(
    accelerator: str,
    reports: dict[str, EthosUReport],
    zeros: dict[str, float],
) -> list[tuple[str, ...]]:
    """Returns a row for each form on one accelerator."""
    reference = reports[_REFERENCE].cycles
    return [
        (
            accelerator,
            form,
            f"{zeros[form]:.1%}",
            f"{report.cycles:,}",
            f"{report.cycles / reference:.2f}",
            f"{report.npu_cycles:,}",
            f"{report.bits_per_weight:.2f}",
        )
        for form, report in reports.items()
    ]
