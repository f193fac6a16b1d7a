"""Random codes, where sizes and cycles are the subject and accuracy is not."""

from collections.abc import Sequence

import keras
import numpy as np

from codeq_keras.deployment import find_kernels

# The step between two codes.
SCALE = 0.07


def give_random_codes(
    model: keras.Model, zeros: float, seed: int, *, dense: Sequence[str] = ()
) -> None:
    """Gives all kernels random 4-bit codes, a fraction of them zeros.

    Kernels whose paths are in `dense` have no zeros.
    """
    rng = np.random.default_rng(seed)
    for kernel in find_kernels(model):
        part = 0.0 if kernel.path in dense else zeros
        codes = block_codes(rng, kernel.variable.shape, part)
        kernel.variable.assign(SCALE * codes)


def block_codes(
    rng: np.random.Generator,
    shape: Sequence[int],
    sparsity: float,
    block: int = 1,
) -> np.ndarray:
    """Returns 4-bit codes with zeros in blocks of neighbouring channels."""
    codes = rng.integers(1, 8, shape) * rng.choice([-1, 1], shape)
    *others, channels = shape
    if channels % block:
        block = 1
    kept = rng.random((*others, channels // block)) >= sparsity
    return (codes * np.repeat(kept, block, axis=-1)).astype(np.int8)
