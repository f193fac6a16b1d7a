"""Magnitudes of weights, alone or in blocks that are pruned together."""

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
