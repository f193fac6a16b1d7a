"""Magnitudes of weights, and those that are pruned by their neighbours."""

from typing import Any

from keras import ops


def magnitudes_of(weights: Any) -> Any:
    """`|weights|` without gradient; float32, also of bfloat16 kernels."""
    return ops.abs(ops.stop_gradient(ops.cast(weights, "float32")))


def block_magnitudes(magnitudes: Any, block: int) -> Any:
    """Root mean square of each block of neighbours on the last axis.

    Of the shape of `magnitudes`, the same number in all places of a block. A
    block that the end of the axis cuts off has the mean of what is there.
    """
    if block == 1:
        return magnitudes
    size = magnitudes.shape[-1]
    num_blocks = -(-size // block)
    padding = [(0, 0)] * (len(magnitudes.shape) - 1)
    padding.append((0, num_blocks * block - size))
    shape = (*magnitudes.shape[:-1], num_blocks, block)
    squares = ops.reshape(ops.pad(ops.square(magnitudes), padding), shape)
    count = ops.reshape(
        ops.minimum(block, size - block * ops.arange(num_blocks)), (-1, 1)
    )
    mean = ops.sum(squares, axis=-1, keepdims=True)
    mean = mean / ops.cast(count, magnitudes.dtype)
    everywhere = ops.reshape(
        ops.broadcast_to(ops.sqrt(mean), shape),
        (*magnitudes.shape[:-1], num_blocks * block),
    )
    return everywhere[..., :size]


def keep_two_of_four(weights: Any, axis: int) -> Any:
    """Zeroes the two least of each four neighbours along an axis.

    Of equal magnitudes the earlier one stays. The gradient is that of the
    identity, so that weights at zero learn.
    """
    weights = ops.convert_to_tensor(weights)
    axis %= len(weights.shape)
    before, after = weights.shape[:axis], weights.shape[axis + 1 :]
    groups = (*before, weights.shape[axis] // 4, 4, *after)
    a, b, c, d = ops.unstack(
        ops.reshape(magnitudes_of(weights), groups), axis=axis + 1
    )
    # Each pair has a larger and a smaller one. Both of a pair stay where its
    # smaller is ahead of the other's larger one, else the larger ones of both.
    is_a, is_c = a >= b, c >= d
    only_ab = ops.minimum(a, b) >= ops.maximum(c, d)
    only_cd = ops.minimum(c, d) > ops.maximum(a, b)
    no_ab, no_cd = ops.logical_not(only_cd), ops.logical_not(only_ab)
    stays = [
        ops.logical_or(only_ab, ops.logical_and(no_ab, is_a)),
        ops.logical_or(only_ab, ops.logical_and(no_ab, ops.logical_not(is_a))),
        ops.logical_or(only_cd, ops.logical_and(no_cd, is_c)),
        ops.logical_or(only_cd, ops.logical_and(no_cd, ops.logical_not(is_c))),
    ]
    kept = ops.reshape(ops.stack(stays, axis=axis + 1), weights.shape)
    pruned = ops.stop_gradient(ops.where(kept, 0.0, weights))
    return weights - pruned
