"""report: sparsity, bits, BOPs, entropy and bytes of a quantized model."""

import dataclasses
from typing import Any

from codeq_keras import costs
from codeq_keras.architecture.finite import require_finite
from codeq_keras.costs import FLOAT_BITS
from codeq_keras.deployment import activation_ranges
from codeq_keras.quantizers.channel_gates import ChannelGates
from codeq_keras.quantizers.kernels import QuantizedKernel, held_sparsity
from codeq_keras.reports.compression_report import CompressionReport
from codeq_keras.reports.kernel_reports import (
    FLOAT_BYTES,
    float_report,
    quantized_report,
    skipped_layers,
)
from codeq_keras.reports.meter import file_meter
from codeq_keras.reports.outputs import output_snrs
from codeq_keras.reports.records import (
    ActivationReport,
    ChannelReport,
    FileReport,
)
from codeq_keras.training.quantized import HasQuantizers, require_quantized


def report(
    qmodel: HasQuantizers, *, samples: Any = None, target: str | None = None
) -> CompressionReport:
    """Returns sparsity, bits, BOPs, entropy, bytes and SNR per kernel.

    Args:
        qmodel: Model from `quantize_model`, trained or not.
        samples: Inputs, of the forms that `calibrate_activations` takes, to
            tell what each kernel does to the outputs; the first 256 are used.
            It takes two predictions of them for each kernel. Best asked before
            a training, see `docs/quickstart.md`. None for all but that.
        target: A device, as in `tflite_export.export`, to tell where the bytes
            of the file for it would go. It takes one conversion. None for all
            but that.

    Returns:
        `CompressionReport`. Print it, plot it, or call `to_dict()`.

    Raises:
        ImportError: If `target` is given and no exporter is installed.
        ValueError: If `qmodel` is not a quantized model or has NaN among its
            weights, `samples` do not fit it, or `target` is unknown.

    Example:

    >>> import codeq_keras, keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> result = codeq_keras.report(codeq_keras.quantize_model(model))
    >>> result.layers[0].num_macs == 4 * 3
    True
    >>> result.advice  # Nothing: it has no zeros.
    ()

    Reference:

    - [CoDeQ, 2025](https://arxiv.org/abs/2512.12981), Eq. (20)-(22).
      Differs from it in: nothing.
    """
    require_quantized(qmodel)
    require_finite(qmodel.kernels)
    gates = qmodel.channel_gates
    at_outputs = {} if samples is None else output_snrs(qmodel, samples)
    kernels = tuple(
        quantized_report(kernel, gates, at_outputs.get(kernel.path))
        if isinstance(kernel, QuantizedKernel)
        else float_report(kernel)
        for kernel in qmodel.kernels
    )
    summary = summarize(qmodel)
    return CompressionReport(
        sparsity=summary["sparsity"],
        mean_bit_width=summary["mean_bit_width"],
        bits_per_weight=summary["bits_per_weight"],
        relative_bops=summary.get("relative_bops"),
        size_bytes=round(summary["size_bytes"]),
        float_size_bytes=sum(FLOAT_BYTES * k.num_weights for k in kernels),
        entropy_size_bytes=round(
            sum(k.entropy_bits * k.num_weights for k in kernels) / 8
        ),
        layers=kernels,
        activations=_activation_report(qmodel),
        held_sparsity=held_sparsity(qmodel.kernels),
        relative_macs=summary.get("relative_macs"),
        channels=_channel_reports(gates),
        file=None if target is None else _file_report(qmodel, target),
        # A TFMOT model has layers of `tf_keras`.
        skipped=()
        if (model := getattr(qmodel, "latent_model", None)) is None
        else skipped_layers(model, qmodel.kernels),
    )


def summarize(qmodel: HasQuantizers) -> dict[str, float]:
    """Returns the headline numbers of `report`, which cost little.

    The keys are `sparsity`, `mean_bit_width`, `bits_per_weight`, `size_bytes`,
    `relative_bops` and `relative_macs`. The last two are missing where the
    multiply-accumulates of a kernel are not known.

    Example:

    >>> import codeq_keras, keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> summarize(codeq_keras.quantize_model(model))["mean_bit_width"]
    4.0
    """
    found = costs.deployed_costs(qmodel.kernels)
    result = {
        "sparsity": float(costs.sparsity(found)),
        "mean_bit_width": float(costs.mean_bit_width(found)),
        "bits_per_weight": float(costs.bits_per_weight(found)),
        "size_bytes": float(costs.size_bytes(found)),
    }
    if all(cost.num_macs is not None for cost in found):
        result["relative_bops"] = float(costs.relative_bops(found))
        result["relative_macs"] = float(costs.relative_macs(found))
    return result


def _file_report(qmodel: HasQuantizers, target: str) -> FileReport:
    meter = file_meter(qmodel, target, needed_for="`report(target=)`")
    return FileReport(target, meter.bytes_by_layer(qmodel))


def _channel_reports(gates: ChannelGates | None) -> tuple[ChannelReport, ...]:
    if gates is None:
        return ()
    kept = gates.kept_channels()
    return tuple(
        ChannelReport(
            members=found.members,
            num_channels=found.size,
            num_kept=len(kept[number]) if number in kept else found.size,
            frozen_reason=_reason_to_stay(gates, number),
        )
        for number, found in enumerate(gates.channels.classes)
    )


def _reason_to_stay(gates: ChannelGates, number: int) -> str | None:
    path = gates.frozen_by(number)
    return f"{path!r} is not trainable" if path else gates.reason(number)


def _activation_report(qmodel: HasQuantizers) -> ActivationReport | None:
    graph, bit_width = qmodel.activation_graph, qmodel.activation_bit_width
    if graph is None or bit_width is None:
        return None
    ranges = activation_ranges(qmodel)
    unseen = tuple(path for path, held in ranges.items() if held is None)
    # A kernel without a call of its own is inside of a layer.
    visible = {id(variable) for variable in graph.visible_variables()}
    found = costs.deployed_costs(qmodel.kernels)
    lowered = [
        dataclasses.replace(cost, bit_width=cost.bit_width * bit_width)
        if id(kernel.variable) in visible
        else dataclasses.replace(cost, bit_width=cost.bit_width * FLOAT_BITS)
        for kernel, cost in zip(qmodel.kernels, found, strict=True)
    ]
    factor = None
    if all(cost.num_macs is not None for cost in found):
        dense = FLOAT_BITS * max(costs.relative_bops(found), 1e-12)
        factor = float(costs.relative_bops(lowered) / dense)
    return ActivationReport(
        bit_width=bit_width,
        bops_factor=factor,
        num_quantized=len(ranges) - len(unseen),
        unseen=unseen,
        inner=graph.placement.inner,
    )
