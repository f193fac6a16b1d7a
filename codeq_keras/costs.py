"""Sparsity, bits, bytes and BOPs of kernels, on numbers or tensors.

Reports compute with numbers, the regularizer with differentiable scalars: one
formula for the training and the report.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from keras import ops

from codeq_keras.architecture.kernels import FloatWeight, Kernel
from codeq_keras.architecture.listing import first_few
from codeq_keras.quantizers.apart import taken_apart
from codeq_keras.quantizers.kernels import (
    QuantizedKernel,
    gates_of,
    states_of,
)

# Bits of a float32 weight and, as in the paper, of every activation.
FLOAT_BITS = 32

# The part of all weights that may stay in float without a word.
_FEW = 0.01

# Bits, and bytes for each weight that is not zero.
Rate = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class KernelCost:
    """The numbers of one kernel that all costs are computed from.

    Attributes:
        num_weights: Number of weights, zeros included.
        num_macs: Dense multiply-accumulates per sample; None if unknown.
        density: Fraction of non-zero weights, in [0, 1].
        bit_width: Bits per weight; 32 for a kernel left in float.
        is_quantized: False for a kernel left in float.
        num_scales: Number of float32 scales, without those of removed
            channels; 0 for a kernel left in float.
        kept: The part of the multiply-accumulates that removed channels leave.
    """

    num_weights: int
    num_macs: int | None
    density: Any
    bit_width: Any
    is_quantized: bool = True
    num_scales: Any = 1
    kept: Any = 1.0


def trained_costs(kernels: Iterable[Kernel]) -> list[KernelCost]:
    """Returns the costs of kernels, differentiable."""
    return [
        _quantized_cost(kernel, kernel.zero_fraction())
        if isinstance(kernel, QuantizedKernel)
        else _float_cost(kernel)
        for kernel in kernels
    ]


def deployed_costs(kernels: Iterable[Kernel]) -> list[KernelCost]:
    """Returns the costs of kernels as they would be deployed now."""
    kernels = list(kernels)
    with taken_apart([*states_of(kernels), *gates_of(kernels)]):
        return [
            _deployed_cost(kernel)
            if isinstance(kernel, QuantizedKernel)
            else _float_cost(kernel)
            for kernel in kernels
        ]


def _deployed_cost(kernel: QuantizedKernel) -> KernelCost:
    values = kernel.values()
    if not bool(ops.all(ops.isfinite(values))):
        # A training that diverged has neither zeros nor bits.
        return KernelCost(
            kernel.num_weights, kernel.num_macs, math.nan, math.nan
        )
    zeros = int(ops.count_nonzero(ops.equal(values, 0)))
    cost = _quantized_cost(kernel, zeros / kernel.num_weights)
    return dataclasses.replace(
        cost,
        density=float(cost.density),
        bit_width=int(cost.bit_width),
        num_scales=round(float(cost.num_scales)),
        kept=float(cost.kept),
    )


def _quantized_cost(kernel: QuantizedKernel, zero_fraction: Any) -> KernelCost:
    density, kept = 1.0 - zero_fraction, 1.0
    num_scales: Any = kernel.quantizer.num_scales
    if kernel.gate is not None:
        kept = kernel.gate.kept()
        if num_scales > 1:
            num_scales = num_scales * kernel.gate.kept_outputs()
        # The weights of removed channels are zeros, in the value already.
        density = density * (kept / ops.stop_gradient(kept))
    return KernelCost(
        num_weights=kernel.num_weights,
        num_macs=kernel.num_macs,
        density=density,
        bit_width=kernel.quantizer.bit_width,
        num_scales=num_scales,
        kept=kept,
    )


def _float_cost(kernel: Kernel) -> KernelCost:
    kept = 1.0 if kernel.gate is None else kernel.gate.kept()
    return KernelCost(
        num_weights=kernel.num_weights,
        num_macs=kernel.num_macs,
        density=kept,
        bit_width=FLOAT_BITS,
        is_quantized=False,
        num_scales=0,
        kept=kept,
    )


def sparsity(costs: Sequence[KernelCost]) -> Any:
    """Returns the fraction of zeros among all quantized weights.

    Kernels left in float are ignored.

    Example:

    >>> costs = [KernelCost(100, 0, 0.5, 4), KernelCost(300, 0, 0.1, 4)]
    >>> round(sparsity(costs), 3)
    0.8
    """
    return 1.0 - _mean_over_weights(costs, lambda c: c.density, default=1.0)


def mean_bit_width(costs: Sequence[KernelCost]) -> Any:
    """Returns the bits per quantized weight, zeros included.

    Kernels left in float are ignored.

    Example:

    >>> mean_bit_width([KernelCost(100, 0, 1, 8), KernelCost(300, 0, 1, 4)])
    5.0
    """
    return _mean_over_weights(
        costs, lambda c: c.bit_width, default=float(FLOAT_BITS)
    )


def relative_bops(costs: Sequence[KernelCost]) -> Any:
    """Returns bit operations relative to the dense float32 model.

    A kernel's bit operations are its non-zero multiply-accumulates times its
    bit width times 32, the bits of the activations. A weight left in float
    counts as one of 32 bits, where it is multiplied. They count arithmetic on
    hardware that can skip every zero. Quantized activations do not change
    them, so that a report shows the number that a budget was given.

    The result is in [0, 1]; kernels left in float are included.

    Example:

    >>> relative_bops([KernelCost(100, 1000, 0.4, 4)]) == 0.4 * 4 / 32
    True

    Reference:

    - [CoDeQ, 2025](https://arxiv.org/abs/2512.12981), Eq. (20)-(22).
      Differs from it in: nothing.
    """
    bits = [cost.density * cost.bit_width for cost in costs]
    return _mean(bits, [cost.num_macs or 0 for cost in costs]) / FLOAT_BITS


def relative_macs(costs: Sequence[KernelCost]) -> Any:
    """Returns the multiply-accumulates that removed channels leave, in [0, 1].

    Zeros count in full: few processors skip them, all skip what is not there.

    Example:

    >>> relative_macs([KernelCost(100, 1000, 0.4, 4, kept=0.5)])
    0.5
    """
    macs = [cost.num_macs or 0 for cost in costs]
    return _mean([cost.kept for cost in costs], macs)


def density(costs: Sequence[KernelCost]) -> Any:
    """Returns the fraction of non-zeros, `1 - sparsity(costs)`.

    Kernels left in float are ignored.
    """
    return 1.0 - sparsity(costs)


def bits_per_weight(costs: Sequence[KernelCost]) -> Any:
    """Returns the mean of density times bits over all quantized weights.

    It counts zeros and their places as free. A 4-bit kernel with 75 % zeros
    has 1 bit per weight.

    Kernels left in float are ignored.

    Example:

    >>> bits_per_weight([KernelCost(100, 0, 0.5, 8), KernelCost(300, 0, 1, 4)])
    4.0
    """
    return _mean_over_weights(
        costs, lambda c: c.density * c.bit_width, default=float(FLOAT_BITS)
    )


def size_bytes(costs: Sequence[KernelCost]) -> Any:
    """Returns the estimated bytes of all kernels, coded without loss.

    A quantized weight takes the entropy of being zero or not, plus
    `log2(2 ** bit_width - 2)` bits if it is not; at most the bits of equally
    likely levels. This bounds the entropy of the codes from above. Arm's Vela
    compiler, whose weight streams need no sparse format, is within 3 % of it:
    2.35 bits per weight where it says 2.32 (8 bits, 80 % zeros). A scale, and
    a weight left in float, takes 4 bytes.

    The gradient of a kernel's logarithm is that of `density * bit_width`:
    the entropy itself rewards the first zeros of a dense kernel with more
    bits, and would keep it dense.

    Kernels left in float are included. The result is not rounded.

    Example:

    >>> float(size_bytes([KernelCost(800, 0, 0.5, 2)])) == 100 * 1.5 + 4
    True
    """
    return sum(_kernel_size_bytes(cost) for cost in costs)


def file_bytes(costs: Sequence[KernelCost], rates: Sequence[Rate]) -> Any:
    """Returns the bytes of a file that kernels change, differentiable.

    `rates` has the bytes for each weight that is not zero, by kernel and by
    bits: points between which they are linear. Without points it costs none.

    Example:

    >>> costs = 2 * [KernelCost(800, 0, 0.5, 3)]
    >>> float(file_bytes(costs, [((2, 0.25), (4, 0.75)), ()]))
    200.0
    """
    total: Any = 0.0
    for cost, points in zip(costs, rates, strict=True):
        if points:
            rate = _interpolated(cost.bit_width, points)
            total = total + cost.num_weights * cost.density * rate
    return total


def _interpolated(bit_width: Any, points: Rate) -> Any:
    (low, value), *others = points
    bit_width = ops.convert_to_tensor(bit_width, dtype="float32")
    result = ops.convert_to_tensor(value, dtype="float32")
    for high, above in others:
        slope = (above - value) / (high - low)
        result = result + slope * ops.clip(bit_width - low, 0.0, high - low)
        low, value = high, above
    return result


def entropy_bits(symbols: np.ndarray) -> float:
    """Returns the Shannon entropy of an array's values, in bits per value.

    No lossless coder that treats values alike needs less.

    Example:

    >>> entropy_bits(np.array([0, 0, 1, 2]))
    1.5
    """
    _, counts = np.unique(symbols, return_counts=True)
    probabilities = counts / counts.sum()
    return float(-np.sum(probabilities * np.log2(probabilities)))


def not_covered(kernels: Sequence[Kernel]) -> str | None:
    """Returns a sentence on weights that no budget reaches, None if few.

    Few are 1 % of all weights. Kernels left in float by choice are not told.

    Example:

    >>> not_covered([]) is None
    True
    """
    others = [k for k in kernels if isinstance(k, FloatWeight)]
    total = sum(k.num_weights for k in kernels)
    uncovered = sum(k.num_weights for k in others)
    if uncovered <= _FEW * total:
        return None
    largest = sorted(others, key=lambda k: -k.num_weights)
    named = first_few([f"{k.path!r} ({k.reason})" for k in largest])
    return (
        f"{uncovered:,} of {total:,} weights stay in float, which no budget "
        f"changes: {named}. A variable that a layer multiplies with is "
        "quantized if its name is 'kernel'."
    )


def require_macs(name: str, kernels: Sequence[Kernel]) -> None:
    """Raises a ValueError where a budget of that name cannot be counted."""
    unknown = [k.path for k in kernels if k.num_macs is None]
    if unknown:
        raise ValueError(
            f"`{name}` needs the multiply-accumulates of every kernel. "
            f"Received: an input size that is not fixed for {unknown}. Build "
            "the model with a fixed input shape, or give another budget "
            "instead."
        )


# The cost that a budget of that name limits. Each falls with zeros or bits,
# but for one that falls with channels alone.
MEASURES = {
    "relative_bops": relative_bops,
    "relative_macs": relative_macs,
    "sparsity": density,
    "bits_per_weight": bits_per_weight,
    "size_bytes": size_bytes,
}


def _kernel_size_bytes(cost: KernelCost) -> Any:
    num_weights = cost.num_weights * cost.kept
    if not cost.is_quantized:
        return num_weights * FLOAT_BITS / 8
    bit_width = ops.convert_to_tensor(cost.bit_width, dtype="float32")
    # Removed channels are in no file.
    trained = ops.convert_to_tensor(cost.density / cost.kept, dtype="float32")
    trained = ops.maximum(trained, 1e-7)
    num_nonzero_levels = ops.power(2.0, bit_width) - 2.0
    # Above it a zero is rarer than each other level, and marking zeros is
    # dearer than to code all levels alike.
    rare = num_nonzero_levels / (num_nonzero_levels + 1.0)
    density = ops.minimum(trained, rare)
    bits = (
        density * ops.log2(num_nonzero_levels / density)
        - (1.0 - density) * ops.log2(1.0 - density)
    )  # fmt: skip
    trained = trained * bit_width
    bits = ops.stop_gradient(bits / trained) * trained
    return num_weights * bits / 8 + 4 * cost.num_scales


def _mean_over_weights(
    costs: Sequence[KernelCost],
    value: Callable[[KernelCost], Any],
    *,
    default: float,
) -> Any:
    """The mean over all quantized weights; `default` if there are none."""
    used = [cost for cost in costs if cost.is_quantized]
    if not used:
        return default
    return _mean([value(c) for c in used], [c.num_weights for c in used])


def _mean(values: Sequence[Any], sizes: Sequence[int]) -> Any:
    total = sum(v * n for v, n in zip(values, sizes, strict=True))
    return total / max(sum(sizes), 1)
