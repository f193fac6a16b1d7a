"""Rewrites strided convolutions exactly, with symmetric padding.

TFLite's SAME with stride 2 pads an even image on one side only. XNNPACK's
sparse kernels read that wrongly. Zeros on all four sides and a larger kernel,
zero outside of the old one, give the same sums. For odd images SAME is
symmetric already, and only becomes a PAD. The first convolution must be 3x3 for
the sparse kernels, so an even image has no repair there.
"""

from typing import NamedTuple

import numpy as np

from tflite_export.format.edits import insert_pad
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import (
    NO_SCALES,
    Constant,
    InputSite,
    Operator,
)

# Zeros on each side, for kernels of 3x3 and 5x5.
MARGINS = (1, 2)


class PlacedKernel(NamedTuple):
    """The place of a kernel in a larger one.

    Attributes:
        margin: Zeros around the image; the kernel has `2 * margin + 1` rows.
        offset: First row and column of the old kernel in the new one.
    """

    margin: int
    offset: tuple[int, int]


def symmetric_form(
    image: tuple[int, int], kernel: tuple[int, int], stride: int
) -> PlacedKernel | None:
    """Returns the equivalent of SAME with equal zeros on all sides.

    `image` and `kernel` are heights and widths. None if 5x5 is too small.

    Example:

    >>> symmetric_form((96, 96), (3, 3), stride=2)
    PlacedKernel(margin=2, offset=(2, 2))
    >>> symmetric_form((95, 95), (3, 3), stride=2)
    PlacedKernel(margin=1, offset=(0, 0))
    >>> symmetric_form((96, 96), (5, 5), stride=2) is None
    True
    """
    before = [
        max((-(-n // stride) - 1) * stride + k - n, 0) // 2
        for n, k in zip(image, kernel, strict=True)
    ]
    for margin in MARGINS:
        offset = [margin - zeros for zeros in before]
        if all(
            0 <= first and first + k <= 2 * margin + 1
            for first, k in zip(offset, kernel, strict=True)
        ):
            return PlacedKernel(margin, (offset[0], offset[1]))
    return None


def pad_symmetrically(file: Flatbuffer) -> list[str]:
    """Rewrites strided SAME convolutions if that is exact; returns notes."""
    notes = []
    # The last one first, since each gets a new operator before it.
    for operator in reversed(file.operators):
        embedding = _embedding(file, operator)
        if embedding is None:
            continue
        kernel = file.tensor(operator.subgraph, operator.inputs[1])
        margin, (top, left) = embedding
        zeros = (margin, margin)
        size = 2 * margin + 1
        old = kernel.data
        if old is None:
            continue
        name = kernel.short_name
        if old.shape[1:3] == (size, size):
            insert_pad(file, operator, ((0, 0), zeros, zeros, (0, 0)))
            notes.append(
                f"{name}: SAME with stride 2 is {margin} zeros on each side in "
                "the file, which is the same."
            )
            continue
        new = np.zeros((1, size, size, old.shape[3]), old.dtype)
        new[:, top : top + old.shape[1], left : left + old.shape[2]] = old
        site = InputSite(operator.subgraph, operator.index, 1)
        file.replace_inputs({site: Constant(new, NO_SCALES, 0)})
        insert_pad(file, operator, ((0, 0), zeros, zeros, (0, 0)))
        notes.append(
            f"{name}: the {old.shape[1]}x{old.shape[2]} "
            f"kernel with stride 2 and SAME is a {size}x{size} kernel with "
            f"{margin} zeros on each side in the file, which computes the same."
        )
    return notes[::-1]


def _embedding(file: Flatbuffer, operator: Operator) -> PlacedKernel | None:
    options = operator.options
    strides = (options.get("strideH"), options.get("strideW"))
    if (
        operator.name not in ("CONV_2D", "DEPTHWISE_CONV_2D")
        or options.get("padding") != "SAME"
        or strides != (2, 2)
        or options.get("dilationHFactor") != 1
        or options.get("dilationWFactor") != 1
    ):
        return None
    _, height, width, _ = file.tensor(0, operator.inputs[0]).shape
    kernel = file.tensor(0, operator.inputs[1]).shape
    size = (kernel[1], kernel[2])
    embedding = symmetric_form((height, width), size, 2)
    is_entry = size == (3, 3) and embedding == PlacedKernel(1, (0, 0))
    if operator.name == "CONV_2D" and not is_entry:
        return None
    return embedding
