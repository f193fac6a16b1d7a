"""The part of a report that is about one kernel."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from codeq_keras import costs
from codeq_keras.architecture.kernels import FloatWeight, Kernel
from codeq_keras.architecture.narrowing import narrowed
from codeq_keras.architecture.visits import own_variables, visit_layers
from codeq_keras.costs import FLOAT_BITS, entropy_bits
from codeq_keras.ops.grids import GRIDS
from codeq_keras.quantizers.channel_gates import ChannelGates
from codeq_keras.quantizers.kernels import QuantizedKernel
from codeq_keras.reports.advice import better_choice
from codeq_keras.reports.choices import Choice, snr_db
from codeq_keras.reports.records import KernelReport, SkippedLayer

FLOAT_BYTES = 4
_HISTOGRAM_BINS = 101
_NO_KERNEL = "no kernel, only biases, gains or statistics"


def float_report(kernel: Kernel) -> KernelReport:
    """Returns the report of a kernel that is left in float."""
    latent = values = _array(kernel.variable)
    kept = 1.0
    if kernel.gate is not None:
        values = _array(kernel.gate.masked(kernel.variable))
        kept = float(kernel.gate.kept())
    return KernelReport(
        path=kernel.path,
        is_quantized=False,
        float_reason=_float_reason(kernel),
        num_weights=latent.size,
        num_macs=kernel.num_macs,
        sparsity=float(np.mean(values == 0)),
        bit_width=FLOAT_BITS,
        entropy_bits=FLOAT_BITS * kept,
        size_bytes=round(FLOAT_BYTES * latent.size * kept),
        levels=np.zeros(0, "float32"),
        histogram=np.histogram(latent, bins=_HISTOGRAM_BINS),
        is_frozen=not kernel.variable.trainable,
    )


def quantized_report(
    kernel: QuantizedKernel,
    gates: ChannelGates | None,
    at_outputs: float | None,
) -> KernelReport:
    """Returns the report of a quantized kernel."""
    latent, values = _array(kernel.variable), _array(kernel.values())
    [cost] = costs.deployed_costs([kernel])
    kept = functools.partial(_kept, kernel, gates)
    # Codes where there are any: per-channel scales make values incomparable.
    has_codes = GRIDS[kernel.quantizer.config.level_grid].has_codes
    symbols = kept(kernel.deployed().codes if has_codes else values)
    entropy = entropy_bits(symbols)
    snr, better = snr_db(kept(latent), kept(values)), None
    if snr is not None:
        now = Choice(cost.bit_width, float(np.mean(symbols == 0)), snr)
        better = better_choice(kernel, kept, now, entropy)
    return KernelReport(
        path=kernel.path,
        is_quantized=True,
        float_reason=None,
        num_weights=latent.size,
        num_macs=kernel.num_macs,
        sparsity=float(np.mean(values == 0)),
        bit_width=cost.bit_width,
        entropy_bits=entropy * symbols.size / latent.size,
        size_bytes=round(float(costs.size_bytes([cost]))),
        levels=_levels(kernel, values),
        histogram=np.histogram(latent, bins=_HISTOGRAM_BINS),
        is_frozen=not kernel.variable.trainable,
        sparsity_pattern=kernel.quantizer.config.sparsity_pattern,
        pattern_obstacle=kernel.pattern_obstacle,
        snr_db=snr,
        output_snr_db=at_outputs,
        better=better,
        zero_interval=_zero_interval(latent, values),
    )


def _kept(
    kernel: QuantizedKernel, gates: ChannelGates | None, array: np.ndarray
) -> np.ndarray:
    """What removed channels leave of it: they are in no file."""
    if gates is None:
        return array
    return narrowed(
        gates.channels, array, kernel.variable, gates.kept_channels()
    )


def _zero_interval(
    latent: np.ndarray, values: np.ndarray
) -> tuple[float, float] | None:
    zeros = latent[values == 0]
    return (float(zeros.min()), float(zeros.max())) if zeros.size else None


def _array(tensor: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor).astype("float32")


def _levels(kernel: QuantizedKernel, values: np.ndarray) -> np.ndarray:
    """The distinct values, of the first channel where each has its own."""
    if kernel.quantizer.config.axis is None:
        return np.unique(values)
    axes = {axis % values.ndim for axis in kernel.output_axes}
    first = tuple(0 if i in axes else slice(None) for i in range(values.ndim))
    return np.unique(values[first])


def skipped_layers(
    model: keras.Layer, kernels: Sequence[Kernel]
) -> tuple[SkippedLayer, ...]:
    """Returns the layers with weights of which none is quantized."""
    known = {id(kernel.variable): kernel for kernel in kernels}
    seen: set[int] = set()
    skipped = []
    for visit in visit_layers(model):
        variables = own_variables(visit.layer)
        if not variables or id(visit.layer) in seen:
            continue
        seen.add(id(visit.layer))
        found = [known[id(v)] for v in variables if id(v) in known]
        if any(isinstance(kernel, QuantizedKernel) for kernel in found):
            continue
        reasons = dict.fromkeys(map(_float_reason, found))
        path = "/".join(visit.path) or visit.layer.name
        skipped.append(SkippedLayer(path, ", ".join(reasons) or _NO_KERNEL))
    return tuple(skipped)


def _float_reason(kernel: Kernel) -> str:
    return kernel.reason if isinstance(kernel, FloatWeight) else "by choice"
