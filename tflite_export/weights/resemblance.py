"""Tells a slot with a changed kernel from one with an unrelated constant."""

import numpy as np

from tflite_export.weights.matching import as_rows, layouts
from tflite_export.weights.records import Slot

# Rounding leaves 0.01 at most, an unrelated kernel far more.
RANK_ONE_RESIDUAL = 0.05
_NUM_RANK_ONE_STEPS = 30
# Above this a slot is a changed kernel, below it another constant.
RESEMBLANCE = 0.9


def holds_input_gain(slot: Slot, kernel: np.ndarray) -> bool:
    """Whether the slot is the kernel times a gain of the *input* channels.

    A BatchNormalization in front of a Dense layer leaves such a product. No
    scale of the output channels can undo it, so the trained codes are lost.
    """
    if slot.codes.size != kernel.size or slot.axis is None:
        return False
    t: np.ndarray = as_rows(slot.codes, slot.axis).astype(np.float64)
    for order in layouts(slot, kernel.shape):
        arranged = kernel.transpose(order).reshape(slot.codes.shape)
        c: np.ndarray = as_rows(arranged, slot.axis).astype(np.float64)
        if np.any((c == 0) & (t != 0)):
            continue
        # Starts at the fullest channel; ones would get stuck on mixed signs.
        fullest = np.count_nonzero(t, axis=1).argmax()
        outer = _solve(t[[fullest]], c[[fullest]], axis=0)
        for _ in range(_NUM_RANK_ONE_STEPS):
            inner = _solve(t, outer * c, axis=1)
            outer = _solve(t, inner * c, axis=0)
        residual = np.linalg.norm(t - inner * outer * c)
        if residual <= RANK_ONE_RESIDUAL * np.linalg.norm(t):
            return True
    return False


def _solve(target: np.ndarray, factor: np.ndarray, axis: int) -> np.ndarray:
    """Least squares of `target ≈ x * factor` along one axis."""
    power = np.sum(factor * factor, axis, keepdims=True)
    product = np.sum(target * factor, axis, keepdims=True)
    return np.divide(product, power, out=np.zeros_like(power), where=power > 0)


def resemblance(slot: Slot, kernel: np.ndarray) -> float:
    """Mean |cosine| over the channels, in the best arrangement; 1 for equal.

    A kernel with a few changed codes stays near 1, an unrelated one does not.
    """
    if slot.codes.size != kernel.size:
        return 0.0
    t: np.ndarray = as_rows(slot.codes, slot.axis).astype(np.float32)
    best = 0.0
    for order in layouts(slot, kernel.shape):
        arranged = kernel.transpose(order).reshape(slot.codes.shape)
        c: np.ndarray = as_rows(arranged, slot.axis).astype(np.float32)
        product = np.abs(np.einsum("ij,ij->i", t, c))
        norms = np.linalg.norm(t, axis=1) * np.linalg.norm(c, axis=1)
        used = norms > 0
        if used.any():
            best = max(best, float(np.mean(product[used] / norms[used])))
    return best


def resembles(slot: Slot, kernel: np.ndarray) -> bool:
    """Whether a slot is a kernel with a few changed codes."""
    # A channel of one weight resembles every other, so it says nothing.
    if as_rows(slot.codes, slot.axis).shape[1] == 1:
        return False
    return resemblance(slot, kernel) >= RESEMBLANCE
