"""Kernels at densities that they do not have yet."""

import contextlib
from collections.abc import Iterator, Sequence

from keras import ops

from codeq_keras.architecture.kernels import Kernel
from codeq_keras.config import LEAST_BIT_WIDTH
from codeq_keras.quantizers.kernels import (
    follow_held_zeros,
    kernels_of,
    states_of,
)
from codeq_keras.quantizers.state import FREE


@contextlib.contextmanager
def restored(kernels: Sequence[Kernel]) -> Iterator[None]:
    """Gives quantizers back the logits, bits and zeros that they had before."""
    held = [
        (variable, ops.convert_to_numpy(variable))
        for state in states_of(kernels)
        for variable in state.variables
    ]
    try:
        yield
    finally:
        for variable, value in held:
            variable.assign(value)


def suppose(kernels: Sequence[Kernel], densities: Sequence[float]) -> None:
    """Gives kernels these densities; those not in training keep their zeros."""
    by_kernel = {id(k): d for k, d in zip(kernels, densities, strict=True)}
    for state in states_of(kernels):
        zeros = [
            1.0 - by_kernel[id(k)] if k.variable.trainable else FREE
            for k in kernels_of(state, kernels)
        ]
        state.hold_zeros(zeros)
    follow_held_zeros(kernels)


def suppose_bits(kernels: Sequence[Kernel], bit_width: int) -> bool:
    """Gives kernels these bits, unless they are fixed.

    Returns whether any kernel learns its bits.
    """
    learning = [s for s in states_of(kernels) if s.bit_width_logit is not None]
    is_any = False
    for state in learning:
        is_auto = state.config.bit_width == "auto"
        for index in range(len(state.bound_shapes)):
            if is_auto and state.least_bit_width(index) >= LEAST_BIT_WIDTH:
                continue  # A budget has fixed them.
            state.begin_bit_width(index, bit_width)
            is_any |= not state.holds_bits
    return is_any
