"""Counts zeros: their fraction decides if XNNPACK takes sparse kernels."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.targets.findings import Finding
from tflite_export.weights.sites import unpacked_constants

# XNNPACK takes the sparse kernels above this fraction of zeros.
MIN_SPARSITY = 2 / 3


class ZeroCount(NamedTuple):
    """Weights and zeros of the 1x1 convolutions, and of the Dense layers."""

    num_zeros: int
    num_weights: int
    num_dense_zeros: int
    num_dense_weights: int

    @property
    def pointwise(self) -> float:
        """Fraction of zeros over all 1x1 convolutions."""
        return self.num_zeros / max(self.num_weights, 1)

    @property
    def with_dense(self) -> float:
        """The same with the Dense layers: newer versions count them too."""
        return (self.num_zeros + self.num_dense_zeros) / max(
            self.num_weights + self.num_dense_weights, 1
        )


def zero_count(file: Flatbuffer) -> ZeroCount:
    """Counts the zeros in the 1x1 convolutions and the Dense layers."""
    constants = unpacked_constants(file)
    zeros: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for operator in file.operators:
        if operator.name not in ("CONV_2D", "FULLY_CONNECTED"):
            continue
        key = (operator.subgraph, operator.inputs[1])
        weights = constants.get(key) or file.tensor(*key)
        if operator.name == "CONV_2D" and weights.shape[1:3] != (1, 1):
            continue
        if weights.data is not None:
            zeros[operator.name] += int(np.count_nonzero(weights.data == 0))
            sizes[operator.name] += weights.data.size
    return ZeroCount(
        *(zeros["CONV_2D"], sizes["CONV_2D"]),
        *(zeros["FULLY_CONNECTED"], sizes["FULLY_CONNECTED"]),
    )


def zero_findings(count: ZeroCount) -> tuple[Finding, ...]:
    """Returns a finding if a file has too few zeros for the sparse kernels."""
    if count.pointwise > MIN_SPARSITY and count.with_dense > MIN_SPARSITY:
        return ()
    finding = Finding(
        "zeros",
        f"{count.pointwise:.1%} of the weights of all 1x1 convolutions are "
        f"zero, and {count.with_dense:.1%} with the Dense layers. XNNPACK "
        "takes its sparse kernels above 66.7 %.",
        "Train with `CompressionBudget(sparsity=0.8)` or more.",
    )
    return (finding,)
