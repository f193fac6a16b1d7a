"""Sparsity, bits, BOPs, entropy and bytes of a quantized model."""

import dataclasses
import os
from typing import Any

import keras
import numpy as np

from codeq_keras import metrics
from codeq_keras.architecture.kernels import Kernel
from codeq_keras.costs import kernel_cost
from codeq_keras.deployment import activation_ranges
from codeq_keras.model import QuantizedModel
from codeq_keras.quantized import HasQuantizers, check_quantized
from codeq_keras.quantizers.dead_zone import DeadZoneQuantizer

_FLOAT_BYTES = 4
_HISTOGRAM_BINS = 101


@dataclasses.dataclass(frozen=True)
class KernelReport:
    """One kernel of a `CompressionReport`.

    Attributes:
        path: Path of the kernel.
        layer_type: Class name of the layer that owns it.
        is_quantized: False if it was left in float.
        num_weights: Number of weights.
        num_macs: Dense multiply-accumulates per sample, None if unknown.
        sparsity: Fraction of zeros, in [0, 1].
        bit_width: Bits per weight.
        entropy_bits: Shannon entropy of the codes, in bits per weight: no
            lossless coder that treats weights alike needs less.
        size_bytes: Estimated bytes of the coded weights and their scales, see
            `codeq_keras.metrics.size_bytes`. At least `entropy_bits` a weight.
        levels: The distinct weight values, sorted (of the first channel where
            every channel has its own). Empty for a float kernel.
        histogram: Tuple `(counts, edges)` of the latent weights.
    """

    path: str
    layer_type: str
    is_quantized: bool
    num_weights: int
    num_macs: int | None
    sparsity: float
    bit_width: int
    entropy_bits: float
    size_bytes: int
    levels: np.ndarray = dataclasses.field(repr=False)
    histogram: tuple[np.ndarray, np.ndarray] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class ActivationReport:
    """How the activations of a model are quantized.

    Attributes:
        bit_width: Bits of an activation.
        relative_bops: As in `CompressionReport`, with `bit_width` bits where
            the input of a kernel is quantized in training, 32 elsewhere; None
            where the multiply-accumulates of a kernel are not known.
        num_quantized: Number of activations with a range, trained or fixed.
        unseen: Paths of activations that have seen no batch yet. They are not
            quantized.
        inner: Paths of layers that compute with activations which cannot be
            seen from outside. Those are in float in training; in a file they
            get their ranges from a representative dataset.
    """

    bit_width: int
    relative_bops: float | None
    num_quantized: int
    unseen: tuple[str, ...]
    inner: tuple[str, ...]

    def __str__(self) -> str:
        """Returns a summary of a few lines."""
        lines = [
            f"activations    {self.bit_width} bits, {self.num_quantized} ranges"
        ]
        if self.relative_bops is not None:
            lines[0] += (
                f"; with them, relative BOPs are {self.relative_bops:.2%}"
            )
        if self.unseen:
            lines.append(
                "not quantized: no batch was seen in training by "
                f"{', '.join(self.unseen)}"
            )
        if self.inner:
            lines.append(
                "in float inside (give `export` a representative dataset): "
                f"{', '.join(self.inner)}"
            )
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class CompressionReport:
    """What the compression of a model has reached.

    Attributes:
        sparsity: Fraction of zeros among the quantized weights, in [0, 1].
        mean_bit_width: Bits per quantized weight, zeros included.
        relative_bops: Bit operations relative to the dense float32 model, in
            [0, 1]; kernels left in float count in full. None where the
            multiply-accumulates of a kernel are not known.
        activation_bit_width: Bits of the activations in `relative_bops`.
        bits_per_weight: Mean of density times bits per quantized weight.
        size_bytes: Estimated bytes of all kernels, coded without loss: what
            `CompressionBudget(size_bytes=...)` limits, close to the weight
            streams of an Ethos-U. Biases and the rest of a file are not
            included; dense files store a byte, or half of one, per weight.
        float_size_bytes: Bytes of all kernels in float32.
        entropy_size_bytes: Entropy bound of all kernels, in bytes.
        layers: One `KernelReport` per kernel, in the order of the layers.
        activations: `ActivationReport`; None where they are left in float.
    """

    sparsity: float
    mean_bit_width: float
    bits_per_weight: float
    relative_bops: float | None
    activation_bit_width: int
    size_bytes: int
    float_size_bytes: int
    entropy_size_bytes: int
    layers: tuple[KernelReport, ...]
    activations: ActivationReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers as plain Python types, ready for JSON."""
        result = dataclasses.asdict(self)
        for kernel in result["layers"]:
            del kernel["histogram"]
            kernel["levels"] = [float(level) for level in kernel["levels"]]
        result["layers"] = list(result["layers"])
        return result

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Writes a picture of sparsity, bits and weight histograms.

        Args:
            path: File to write; its suffix chooses the format, e.g. ".png".

        Raises:
            ImportError: If matplotlib is not installed.
        """
        from codeq_keras.reports.plot import plot_report

        plot_report(self, path)

    def __str__(self) -> str:
        """Returns a table with a line per kernel and a summary."""
        width = max(6, *(len(kernel.path) for kernel in self.layers))
        lines = [
            f"{'kernel':<{width}}  {'weights':>9}  {'MACs':>11}  {'zeros':>6}"
            f"  {'bits':>4}  {'entropy':>7}  {'bytes':>9}"
        ]
        for kernel in self.layers:
            macs = "?" if kernel.num_macs is None else f"{kernel.num_macs:,}"
            lines.append(
                f"{kernel.path:<{width}}  {kernel.num_weights:>9,}  {macs:>11}"
                f"  {kernel.sparsity:>6.1%}  {kernel.bit_width:>4}"
                f"  {kernel.entropy_bits:>7.2f}  {kernel.size_bytes:>9,}"
                + ("" if kernel.is_quantized else "  left in float")
            )
        if self.relative_bops is None:
            bops = "unknown: an input size is not fixed"
        else:
            bops = (
                f"{self.relative_bops:.2%} of dense float32 "
                f"({self.activation_bit_width}-bit activations)"
            )
        ratio = self.float_size_bytes / max(self.size_bytes, 1)
        lines += [
            "",
            f"sparsity       {self.sparsity:.1%}",
            f"mean bit width {self.mean_bit_width:.2f}",
            f"bits per weight {self.bits_per_weight:.2f} without the zeros",
            f"relative BOPs  {bops}",
            f"kernel bytes   {self.size_bytes:,} coded, {ratio:.1f}x smaller "
            f"than float32 (entropy bound {self.entropy_size_bytes:,})",
        ]
        if self.activations is not None:
            lines.append(str(self.activations))
        return "\n".join(lines)


def report(qmodel: QuantizedModel) -> CompressionReport:
    """Returns sparsity, bits, BOPs, entropy and bytes per kernel.

    Args:
        qmodel: Model from `quantize_model`, trained or not.

    Returns:
        `CompressionReport`. Print it, plot it, or call `to_dict()`.

    Raises:
        ValueError: If `qmodel` is not a quantized model.

    Example:

    >>> import codeq_keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> result = codeq_keras.report(codeq_keras.quantize_model(model))
    >>> result.layers[0].num_macs == 4 * 3
    True

    Reference:

    - [CoDeQ, 2025](https://arxiv.org/abs/2512.12981), Eq. (20)-(22).
      Differs from it in: nothing.
    """
    check_quantized(qmodel)
    kernels = tuple(
        _kernel_report(kernel, quantizer)
        for kernel, quantizer in zip(
            qmodel.kernels, qmodel.quantizers, strict=True
        )
    )
    summary = summarize(qmodel)
    return CompressionReport(
        sparsity=summary["sparsity"],
        mean_bit_width=summary["mean_bit_width"],
        bits_per_weight=summary["bits_per_weight"],
        relative_bops=summary.get("relative_bops"),
        activation_bit_width=metrics.FLOAT_BITS,
        size_bytes=round(summary["size_bytes"]),
        float_size_bytes=sum(_FLOAT_BYTES * k.num_weights for k in kernels),
        entropy_size_bytes=round(
            sum(k.entropy_bits * k.num_weights for k in kernels) / 8
        ),
        layers=kernels,
        activations=_activation_report(qmodel),
    )


def _activation_report(qmodel: QuantizedModel) -> ActivationReport | None:
    # A model of TFMOT has none: there, TFMOT quantizes the activations.
    graph = getattr(qmodel, "activation_graph", None)
    if graph is None:
        return None
    bit_width = int(qmodel.activation_bit_width or metrics.FLOAT_BITS)
    ranges = activation_ranges(qmodel)
    unseen = tuple(path for path, held in ranges.items() if held is None)
    # A kernel without a call of its own is inside of a layer.
    visible = {id(variable) for variable in graph.visible_variables()}
    costs = []
    for kernel, cost in zip(qmodel.kernels, kernel_costs(qmodel), strict=True):
        if id(kernel.variable) in visible:
            # Bits of weights times bits of activations, over 32.
            share = bit_width / metrics.FLOAT_BITS
            cost = dataclasses.replace(cost, bit_width=cost.bit_width * share)
        costs.append(cost)
    is_known = all(cost.num_macs is not None for cost in costs)
    return ActivationReport(
        bit_width=bit_width,
        relative_bops=float(metrics.relative_bops(costs)) if is_known else None,
        num_quantized=len(ranges) - len(unseen),
        unseen=unseen,
        inner=graph.placement.inner,
    )


def summarize(qmodel: HasQuantizers) -> dict[str, float]:
    """Returns the headline numbers of `report`, which cost little.

    Args:
        qmodel: Model from `quantize_model`.

    Returns:
        `{"sparsity", "mean_bit_width", "bits_per_weight", "size_bytes",
        "relative_bops"}`; the last is missing where the multiply-accumulates
        of a kernel are not known.

    Example:

    >>> import codeq_keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> summarize(codeq_keras.quantize_model(model))["mean_bit_width"]
    4.0
    """
    costs = kernel_costs(qmodel)
    result = {
        "sparsity": float(metrics.sparsity(costs)),
        "mean_bit_width": float(metrics.mean_bit_width(costs)),
        "bits_per_weight": float(metrics.bits_per_weight(costs)),
        "size_bytes": float(metrics.size_bytes(costs)),
    }
    if all(cost.num_macs is not None for cost in costs):
        result["relative_bops"] = float(metrics.relative_bops(costs))
    return result


def kernel_costs(qmodel: HasQuantizers) -> list[metrics.KernelCost]:
    """Returns what every kernel costs as it would be deployed now.

    Args:
        qmodel: Model from `quantize_model`.
    """
    return [
        _deployed_cost(kernel, quantizer)
        for kernel, quantizer in zip(
            qmodel.kernels, qmodel.quantizers, strict=True
        )
    ]


def _deployed_cost(
    kernel: Kernel, quantizer: DeadZoneQuantizer | None
) -> metrics.KernelCost:
    if quantizer is None:
        return kernel_cost(kernel, None, 0.0)
    zeros = keras.ops.count_nonzero(quantizer(kernel.variable) == 0)
    cost = kernel_cost(kernel, quantizer, int(zeros) / kernel.num_weights)
    return dataclasses.replace(cost, bit_width=int(cost.bit_width))


def _kernel_report(
    kernel: Kernel, quantizer: DeadZoneQuantizer | None
) -> KernelReport:
    latent = keras.ops.convert_to_numpy(kernel.variable).astype("float32")
    counts, edges = np.histogram(latent, bins=_HISTOGRAM_BINS)
    common = {
        "path": kernel.path,
        "layer_type": type(kernel.layer).__name__,
        "num_weights": latent.size,
        "num_macs": kernel.num_macs,
        "histogram": (counts, edges),
    }
    if quantizer is None:
        return KernelReport(
            is_quantized=False,
            sparsity=float(np.mean(latent == 0)),
            bit_width=metrics.FLOAT_BITS,
            entropy_bits=float(metrics.FLOAT_BITS),
            size_bytes=_FLOAT_BYTES * latent.size,
            levels=np.zeros(0, "float32"),
            **common,
        )
    deployed = keras.ops.convert_to_numpy(quantizer(kernel.variable))
    cost = _deployed_cost(kernel, quantizer)
    # Codes where there are any: per-channel scales make values incomparable.
    symbols = deployed
    if quantizer.config.level_grid != "paper":
        symbols = quantizer.quantized_weight(kernel.variable).codes
    return KernelReport(
        is_quantized=True,
        sparsity=float(np.mean(deployed == 0)),
        bit_width=cost.bit_width,
        entropy_bits=_entropy_bits(symbols),
        size_bytes=round(float(metrics.size_bytes([cost]))),
        levels=_levels(deployed, quantizer),
        **common,
    )


def _entropy_bits(symbols: np.ndarray) -> float:
    _, counts = np.unique(symbols, return_counts=True)
    probabilities = counts / counts.sum()
    return float(-np.sum(probabilities * np.log2(probabilities)))


def _levels(deployed: np.ndarray, quantizer: DeadZoneQuantizer) -> np.ndarray:
    if quantizer.axis is not None:
        axes = {axis % deployed.ndim for axis in quantizer.axis}
        first = tuple(
            0 if i in axes else slice(None) for i in range(deployed.ndim)
        )
        deployed = deployed[first]
    return np.unique(deployed)
