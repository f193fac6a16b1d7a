"""Layouts: a kernel as rows of one matrix product, and the inputs it meets.

Each row computes one output from a column of inputs: `row @ column`. A
convolution is such a product at each position, a depthwise one has rows of its
own for each channel, which is a group.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a kernel becomes rows.

    Attributes:
        rows: Maps a kernel to an array `(groups, rows, columns)`.
        kernel: Maps such an array back.
    """

    rows: Callable[[np.ndarray], np.ndarray]
    kernel: Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class ProductLayout(Layout):
    """How the inputs of a layer become the columns that its kernel meets.

    Attributes:
        columns: Maps the inputs of a call and a generator of random numbers to
            `(groups, positions, columns)`: a few positions of each sample.
        has_bias: Whether a bias of the layer has one number for each row.
    """

    columns: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    has_bias: bool = True


# Neighbouring positions of an image tell the same.
_POSITIONS_PER_SAMPLE = 64


def layout_of(layer: Any) -> ProductLayout | None:
    """Returns the layout of a layer's `kernel`; None if it has none."""
    kind = type(layer)
    shape = tuple(getattr(layer, "kernel", np.zeros(())).shape)
    if kind is keras.layers.Dense:
        return _dense(shape)
    if kind is keras.layers.EinsumDense:
        return _einsum_dense(layer, shape)
    if kind in _CONVOLUTIONS:
        return _convolution(layer, shape, layer.groups)
    if kind in _DEPTHWISE:
        return _depthwise(layer, shape)
    if kind in _TRANSPOSED:
        return _transposed(layer, shape)
    return None


_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def plain_layout(shape: tuple[int, ...], axes: tuple[int, ...]) -> Layout:
    """Returns the layout of any kernel with these output axes: no columns."""
    front = tuple(range(len(axes)))
    moved = [shape[i] for i in axes]
    moved += [size for i, size in enumerate(shape) if i not in axes]

    def rows(kernel: np.ndarray) -> np.ndarray:
        kernel = np.moveaxis(kernel, axes, front)
        return kernel.reshape(1, math.prod(moved[: len(axes)]), -1)

    def kernel(rows: np.ndarray) -> np.ndarray:
        return np.moveaxis(rows.reshape(moved), front, axes)

    return Layout(rows, kernel)


def _dense(shape: tuple[int, ...]) -> ProductLayout:
    def columns(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return _few(x.reshape(len(x), -1, x.shape[-1]), rng)[None]

    return ProductLayout(
        rows=lambda kernel: kernel.T[None],
        kernel=lambda rows: rows[0].T,
        columns=columns,
    )


def _einsum_dense(layer: Any, shape: tuple[int, ...]) -> ProductLayout | None:
    inputs, rest = layer.equation.split(",")
    letters, outputs = rest.split("->")
    summed = [a for a in letters if a not in outputs]
    if any(a in inputs.replace(".", "") and a in outputs for a in letters):
        return None  # A product for each of its positions.
    order = [letters.index(a) for a in summed]
    order += [i for i in range(len(letters)) if i not in order]
    size = math.prod(shape[letters.index(a)] for a in summed)
    # From behind: an ellipsis stands for axes in front, or in the middle.
    before, _, after = inputs.partition("...")
    places = {a: i for i, a in enumerate(before)}
    places |= {a: i - len(after) for i, a in enumerate(after)}

    def rows(kernel: np.ndarray) -> np.ndarray:
        return kernel.transpose(order).reshape(size, -1).T[None]

    def kernel(rows: np.ndarray) -> np.ndarray:
        moved = [shape[i] for i in order]
        return rows[0].T.reshape(moved).transpose(np.argsort(order))

    def columns(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        axes = [places[a] % x.ndim for a in summed]
        x = np.moveaxis(x, axes, range(-len(axes), 0))
        return _few(x.reshape(len(x), -1, size), rng)[None]

    # Biases of other axes, or in another order, are left alone.
    has_bias = layer.bias_axes == "".join(
        letters[i] for i in order[len(summed) :]
    )
    return ProductLayout(rows, kernel, columns, has_bias)


def _convolution(
    layer: Any, shape: tuple[int, ...], groups: int
) -> ProductLayout:
    size = math.prod(shape[:-1])

    def rows(kernel: np.ndarray) -> np.ndarray:
        return kernel.reshape(size, groups, -1).transpose(1, 2, 0)

    def kernel(rows: np.ndarray) -> np.ndarray:
        return rows.transpose(2, 0, 1).reshape(shape)

    def columns(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        found = _patches(layer, x, shape[:-2], rng)
        found = found.reshape(len(found), -1, groups, shape[-2])
        return found.transpose(2, 0, 1, 3).reshape(groups, len(found), size)

    return ProductLayout(rows, kernel, columns)


def _depthwise(layer: Any, shape: tuple[int, ...]) -> ProductLayout:
    size = math.prod(shape[:-2])

    def rows(kernel: np.ndarray) -> np.ndarray:
        return kernel.reshape(size, *shape[-2:]).transpose(1, 2, 0)

    def kernel(rows: np.ndarray) -> np.ndarray:
        return rows.transpose(2, 0, 1).reshape(shape)

    def columns(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        found = _patches(layer, x, shape[:-2], rng)
        return found.reshape(len(found), size, -1).transpose(2, 0, 1)

    return ProductLayout(rows, kernel, columns)


def _transposed(layer: Any, shape: tuple[int, ...]) -> ProductLayout:
    """Each tap is a row: exact where taps do not overlap, near it elsewhere."""

    def columns(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x = _channels_last(layer, x)
        return _few(x.reshape(len(x), -1, x.shape[-1]), rng)[None]

    return ProductLayout(
        rows=lambda kernel: kernel.reshape(1, -1, shape[-1]),
        kernel=lambda rows: rows.reshape(shape),
        columns=columns,
        has_bias=False,
    )


def _few(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some positions of `(samples, positions, columns)`, in one list."""
    count = x.shape[1]
    if count > _POSITIONS_PER_SAMPLE:
        chosen = rng.integers(0, count, (len(x), _POSITIONS_PER_SAMPLE))
        x = np.take_along_axis(x, chosen[..., None], axis=1)
    return x.reshape(-1, x.shape[-1])


def _patches(
    layer: Any,
    x: np.ndarray,
    sizes: tuple[int, ...],
    rng: np.random.Generator,
) -> np.ndarray:
    """What a window sees at some positions: `(positions, *sizes, channels)`."""
    x = _channels_last(layer, x)
    rank = len(sizes)
    windows = [
        (n - 1) * d + 1 for n, d in zip(sizes, _rates(layer), strict=True)
    ]
    strides = _tuple(layer.strides, rank)
    padding = [
        _padding(layer.padding, n, window, stride)
        for n, window, stride in zip(
            x.shape[1:-1], windows, strides, strict=True
        )
    ]
    x = np.pad(x, [(0, 0), *padding, (0, 0)])
    views = np.lib.stride_tricks.sliding_window_view(
        x, windows, tuple(range(1, rank + 1))
    )
    steps = [slice(None, None, s) for s in strides]
    taps = [slice(None, None, d) for d in _rates(layer)]
    views = views[(slice(None), *steps, slice(None), *taps)]
    shape = views.shape[1 : rank + 1]
    count = math.prod(shape)
    number = min(count, _POSITIONS_PER_SAMPLE)
    flat = np.stack(
        [rng.choice(count, number, replace=False) for _ in range(len(x))]
    )
    places = np.unravel_index(flat.ravel(), shape)
    samples: np.ndarray = np.repeat(np.arange(len(x)), number)
    found = views[(samples, *places)]
    return np.moveaxis(found, 1, -1)


def _padding(kind: str, size: int, window: int, stride: int) -> tuple[int, int]:
    """Zeros in front of an axis and behind it, as Keras pads."""
    if kind == "causal":
        return window - 1, 0
    if kind != "same":
        return 0, 0
    total = max((math.ceil(size / stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def _rates(layer: Any) -> tuple[int, ...]:
    return _tuple(layer.dilation_rate, layer.rank)


def _tuple(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _channels_last(layer: Any, x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1) if layer.data_format == "channels_first" else x
