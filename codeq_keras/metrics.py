"""Sparsity, bits and BOPs of a model: arithmetic on numbers or tensors.

The report feeds NumPy numbers, the regularizer differentiable scalars, so
that what is trained and what is reported is one formula.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

# Bits of a float32 weight and, as in the paper, of every activation.
FLOAT_BITS = 32


@dataclasses.dataclass(frozen=True)
class KernelCost:
    """What one kernel costs.

    Attributes:
        num_weights: Number of weights, zeros included.
        num_macs: Dense multiply-accumulates per sample; None if unknown.
        density: Fraction of non-zero weights, in [0, 1].
        bit_width: Bits per weight; 32 for a kernel left in float.
        is_quantized: False for a kernel left in float.
    """

    num_weights: int
    num_macs: int | None
    density: Any
    bit_width: Any
    is_quantized: bool = True


def sparsity(costs: Sequence[KernelCost]) -> Any:
    """Returns the fraction of zeros among all quantized weights.

    Args:
        costs: One entry per kernel; those left in float are ignored.

    Example:

    >>> costs = [KernelCost(100, 0, 0.5, 4), KernelCost(300, 0, 0.1, 4)]
    >>> round(sparsity(costs), 3)
    0.8
    """
    used = [cost for cost in costs if cost.is_quantized]
    if not used:
        return 0.0
    return 1.0 - _mean(
        [cost.density for cost in used], [cost.num_weights for cost in used]
    )


def mean_bit_width(costs: Sequence[KernelCost]) -> Any:
    """Returns the bits per quantized weight, zeros included.

    Args:
        costs: One entry per kernel; those left in float are ignored.

    Example:

    >>> mean_bit_width([KernelCost(100, 0, 1, 8), KernelCost(300, 0, 1, 4)])
    5.0
    """
    used = [cost for cost in costs if cost.is_quantized]
    if not used:
        return float(FLOAT_BITS)
    return _mean(
        [cost.bit_width for cost in used], [cost.num_weights for cost in used]
    )


def relative_bops(costs: Sequence[KernelCost]) -> Any:
    """Returns bit operations relative to the dense float32 model.

    A kernel's bit operations are its non-zero multiply-accumulates times its
    bit width times 32, the bits of the activations. They count arithmetic on
    hardware that can skip every zero.

    Args:
        costs: One entry per kernel, those left in float included.

    Returns:
        A number or scalar tensor in [0, 1].

    Example:

    >>> relative_bops([KernelCost(100, 1000, 0.4, 4)]) == 0.4 * 4 / 32
    True

    Reference:

    - [CoDeQ, 2025](https://arxiv.org/abs/2512.12981), Eq. (20)-(22).
      Differs from it in: nothing.
    """
    bits = [cost.density * cost.bit_width for cost in costs]
    return _mean(bits, [cost.num_macs or 0 for cost in costs]) / FLOAT_BITS


def _mean(values: Sequence[Any], sizes: Sequence[int]) -> Any:
    total = sum(v * n for v, n in zip(values, sizes, strict=True))
    return total / max(sum(sizes), 1)
