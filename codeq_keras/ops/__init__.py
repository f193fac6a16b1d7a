"""The functions of the method, on tensors of any backend. No state."""

from codeq_keras.ops.functions import (
    abs_bound,
    bit_width_from_logit,
    dead_zone_width,
    dequantize,
    fake_quantize,
    quantize,
    round_ste,
    zero_fraction,
)
from codeq_keras.ops.grids import LEVEL_GRIDS

__all__ = [
    "LEVEL_GRIDS",
    "abs_bound",
    "bit_width_from_logit",
    "dead_zone_width",
    "dequantize",
    "fake_quantize",
    "quantize",
    "round_ste",
    "zero_fraction",
]
