"""kernel_cost: what a kernel behind a quantizer costs. No formulas."""

from typing import Any

from codeq_keras.architecture.kernels import Kernel
from codeq_keras.metrics import FLOAT_BITS, KernelCost
from codeq_keras.quantizers.dead_zone import DeadZoneQuantizer


def kernel_cost(
    kernel: Kernel, quantizer: DeadZoneQuantizer | None, zero_fraction: Any
) -> KernelCost:
    """Returns the numbers from which `metrics` computes.

    Args:
        kernel: Kernel of a model.
        quantizer: Its quantizer, None if it was left in float.
        zero_fraction: Fraction of zeros of a quantized kernel, in [0, 1]: a
            number to report, a scalar tensor to differentiate.
    """
    if quantizer is None:
        return KernelCost(
            num_weights=kernel.num_weights,
            num_macs=kernel.num_macs,
            density=1.0,
            bit_width=FLOAT_BITS,
            is_quantized=False,
            num_scales=0,
        )
    return KernelCost(
        num_weights=kernel.num_weights,
        num_macs=kernel.num_macs,
        density=1.0 - zero_fraction,
        bit_width=quantizer.bit_width,
        num_scales=quantizer.num_scales,
    )
