"""The bits of `bit_width="auto"`: what the zeros of a budget leave."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from codeq_keras.config import AUTO_BIT_WIDTH
from codeq_keras.costs import MEASURES, KernelCost
from codeq_keras.quantizers.dead_zone import DeadZoneQuantizer
from codeq_keras.quantizers.kernels import QuantizedKernel

# Fewer bits, where a budget would leave fewer weights than this at 4 bits: few
# levels for many weights are nearer to them than many levels for few.
_LEAST_DENSITIES = {2: 0.16, 3: 0.48}

# Finds a density to 1e-6.
_NUM_HALVINGS = 20


def choose_bit_width(
    kernels: Sequence[Any],
    found: Sequence[KernelCost],
    name: str,
    limit: float,
    *,
    at_least: int = 2,
) -> int | None:
    """Sets the bits of all kernels with `"auto"`, or the least of `"learned"`.

    Returns the bits of `"auto"`, None if no kernel has it. `found` are the
    costs of the kernels now, and `limit` is on `costs.MEASURES[name]`; limits
    on zeros and channels are no matter of bits.
    """
    chosen = has_say(kernels)
    if not any(chosen) or name in ("sparsity", "relative_macs"):
        return None
    bits = max(budgeted_bit_width(name, limit, found, chosen), at_least)
    return set_bit_width(kernels, bits)


def set_bit_width(kernels: Sequence[Any], bits: int) -> int | None:
    """Sets bits that a budget chose; returns them if a kernel has `"auto"`."""
    quantizers = [
        kernel.quantizer
        for kernel, is_chosen in zip(kernels, has_say(kernels), strict=True)
        if is_chosen
    ]
    for quantizer in quantizers:
        quantizer.choose_bit_width(bits)
    is_auto = any(q.config.bit_width == "auto" for q in quantizers)
    return bits if is_auto else None


def has_say(kernels: Sequence[Any]) -> list[bool]:
    """Whether a budget has a say in the bits, by kernel."""
    return [
        isinstance(kernel, QuantizedKernel)
        and isinstance(kernel.quantizer, DeadZoneQuantizer)
        and kernel.quantizer.config.is_budgeted
        for kernel in kernels
    ]


def budgeted_bit_width(
    name: str,
    limit: float,
    costs: Sequence[KernelCost],
    chosen: Sequence[bool],
) -> int:
    """Returns the bits for a budget: 3, the 4 of no budget, or 2 as the least.

    All quantized kernels are thought of with one density, those that are
    `chosen` with 4 bits.
    """
    costs = [
        dataclasses.replace(cost, bit_width=AUTO_BIT_WIDTH)
        if is_chosen
        else cost
        for cost, is_chosen in zip(costs, chosen, strict=True)
    ]

    def measure(density: float) -> float:
        found = [
            dataclasses.replace(cost, density=density)
            if cost.is_quantized
            else cost
            for cost in costs
        ]
        return float(MEASURES[name](found))

    return bit_width_at(
        largest_density(lambda density: measure(density) <= limit)
    )


def largest_density(
    fits: Callable[[float], bool],
    low: float = 0.0,
    num_halvings: int = _NUM_HALVINGS,
) -> float:
    """Returns the largest density in [low, 1] that fits, `low` if none does."""
    high = 1.0
    for _ in range(num_halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def bit_width_at(density: float) -> int:
    """Returns the bits where 4 of them would leave such a density."""
    for bits, least in _LEAST_DENSITIES.items():
        if density < least:
            return bits
    return AUTO_BIT_WIDTH
