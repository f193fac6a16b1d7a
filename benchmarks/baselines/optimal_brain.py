"""Optimal Brain Compression: prunes and quantizes a trained network.

NumPy after the paper's equations. For a layer with the inputs `X` (one column
per position), a row `w` of its weight matrix changes the layer's output by

    dw @ H @ dw, with H = X @ X.T

The weight `p` whose removal or rounding by `e_p` costs least, `e_p ** 2 /
inverse(H)[p, p]`, goes first; the remaining ones make up for it, and its row
and column leave the inverse:

    w -= e_p / inverse(H)[p, p] * inverse(H)[:, p]
    inverse(H) -= outer(inverse(H)[:, p], inverse(H)[p]) / inverse(H)[p, p]

Reference:

- [Optimal Brain Compression, 2022](https://arxiv.org/abs/2208.11580),
  Alg. 1 and sections 4 and 5. Differs from it in: the sparsity of the layers
  comes from one threshold on the error per multiply-accumulate saved, not
  from dynamic programming; no batch of images is augmented.
"""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from baselines.pruning import best_of_all
from codeq_keras.architecture.kernels import Kernel, find_kernels

_DAMPING = 0.01  # Added to the diagonal of H, relative to its mean.
_NUM_POSITIONS = 20_000  # Inputs per layer that enter H.


@dataclasses.dataclass
class Problem:
    """One layer as rows of independent least-squares problems.

    The rows have the shape `(num_rows, row_size)`, the Hessian the shape
    `(1 or num_rows, row_size, row_size)`.
    """

    kernel: Kernel
    rows: np.ndarray
    hessian: np.ndarray


def compress(
    model: keras.Model, samples: np.ndarray, *, bit_width: int, density: float
) -> None:
    """Replaces the kernels in place; `density` is of multiply-accumulates."""
    kernels = find_kernels(model)
    probe = keras.Model(model.inputs, [k.layer.input for k in kernels])
    inputs = probe.predict(samples, batch_size=250, verbose=0)
    problems = list(map(_problem, kernels, inputs))
    orders = [pruning_order(p.rows, p.hessian) for p in problems]
    masks = _choose_masks(problems, orders, density)
    for problem, mask in zip(problems, masks, strict=True):
        rows = refit(problem.rows, problem.hessian, mask)
        rows = quantize_in_order(rows, problem.hessian, mask, bit_width)
        shape = tuple(problem.kernel.variable.shape)
        problem.kernel.variable.assign(rows.T.reshape(shape))


def pruning_order(
    rows: np.ndarray, hessian: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Prunes every row to the end; returns the order and the added errors."""
    count, size = rows.shape
    weights = rows.astype("float64")
    inverse = np.linalg.inv(hessian).astype("float32")
    inverse = np.broadcast_to(inverse, (count, size, size)).copy()
    every, left = np.arange(count), np.ones(rows.shape, bool)
    order, errors = np.empty(rows.shape, int), np.empty(rows.shape)
    for step in range(size):
        diagonal = np.einsum("rii->ri", inverse)
        cost = np.where(left, weights**2, np.inf)
        cost = np.where(left, cost / np.where(left, diagonal, 1), np.inf)
        chosen = cost.argmin(1)
        order[:, step], errors[:, step] = chosen, cost[every, chosen]
        column = inverse[every, :, chosen]
        pivot = diagonal[every, chosen].copy()
        step_size = weights[every, chosen] / pivot
        weights -= step_size[:, np.newaxis] * column
        weights[every, chosen] = 0
        scaled = column / np.sqrt(pivot)[:, np.newaxis]
        inverse -= scaled[:, :, np.newaxis] * scaled[:, np.newaxis, :]
        left[every, chosen] = False
    return order, errors


def refit(
    rows: np.ndarray, hessian: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Returns the weights that a mask leaves, at their least-squares optimum.

    Where the sequence of removals ends, without walking through it again.
    """
    result = np.zeros_like(rows)
    for index, kept in enumerate(mask):
        h = hessian[index % len(hessian)]
        if kept.any():
            result[index, kept] = np.linalg.solve(
                h[np.ix_(kept, kept)], (h @ rows[index])[kept]
            )
    return result


def quantize_in_order(
    rows: np.ndarray, hessian: np.ndarray, mask: np.ndarray, bit_width: int
) -> np.ndarray:
    """Rounds the kept weights, cheapest first; the others make up for it."""
    max_code = 2 ** (bit_width - 1) - 1
    result = np.zeros_like(rows)
    for index, kept in enumerate(mask):
        if not kept.any():
            continue
        h = hessian[index % len(hessian)][np.ix_(kept, kept)]
        inverse, weights = np.linalg.inv(h), rows[index, kept].copy()
        scale = _best_scale(weights, max_code)
        left = np.ones(len(weights), bool)
        for _ in range(len(weights)):
            rounded = _round(weights, scale, max_code)
            error = weights - rounded
            diagonal = np.where(left, np.diag(inverse), 1)
            cost = error**2 / diagonal
            # What compensation pushed off the grid goes first, while there
            # are weights left to make up for it: section 5 of the paper.
            outlier = left & (np.abs(error) > 0.5 * scale * (1 + 1e-6))
            if outlier.any():
                p = np.where(outlier, np.abs(error), -1).argmax()
            else:
                p = np.where(left, cost, np.inf).argmin()
            column = np.where(left, inverse[:, p], 0)
            weights -= error[p] / inverse[p, p] * column
            weights[p] = rounded[p]
            inverse -= np.outer(column, column) / inverse[p, p]
            left[p] = False
        result[index, kept] = weights
    return result


def _best_scale(weights: np.ndarray, max_code: int) -> float:
    """The scale of least squared error, between 0.5 and 1 of the range."""
    scales = np.abs(weights).max() / max_code * np.linspace(0.5, 1, 26)
    rounded = [_round(weights, scale, max_code) for scale in scales]
    errors = [np.sum((weights - values) ** 2) for values in rounded]
    return float(scales[int(np.argmin(errors))])


def _round(weights: np.ndarray, scale: float, max_code: int) -> np.ndarray:
    return scale * np.clip(np.round(weights / scale), -max_code, max_code)


def _choose_masks(
    problems: Sequence[Problem],
    orders: Sequence[tuple[np.ndarray, np.ndarray]],
    density: float,
) -> list[np.ndarray]:
    """One threshold on the relative error per multiply-accumulate saved."""
    scores, macs = [], []
    for problem, (order, errors) in zip(problems, orders, strict=True):
        rows, hessian = problem.rows, problem.hessian
        hessians = np.broadcast_to(hessian, (len(rows), *hessian.shape[1:]))
        energy = np.einsum("ri,rij,rj->", rows, hessians, rows)
        per_weight = (problem.kernel.num_macs or 0) / rows.size
        # Cumulative maximum: a weight never goes before its predecessors.
        rising = np.maximum.accumulate(errors, axis=1) / energy / per_weight
        score = np.empty_like(rising)
        np.put_along_axis(score, order, rising, axis=1)
        scores.append(score)
        macs.append(per_weight)
    return best_of_all(scores, macs, density)


def _problem(kernel: Kernel, inputs: np.ndarray) -> Problem:
    layer = kernel.layer
    if isinstance(layer, keras.layers.Dense):
        patches = inputs[:, np.newaxis, :]
    elif isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
        patches = _patches(layer, inputs)
    else:
        raise NotImplementedError(
            "Only kernels of Conv2D, DepthwiseConv2D and Dense are compressed. "
            f"Received: {type(layer).__name__} at {kernel.path}."
        )
    weights = keras.ops.convert_to_numpy(kernel.variable).astype("float64")
    # Depthwise: a row and a Hessian of its own per channel.
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        rows = weights.reshape(-1, weights.shape[2]).T
        per_row = patches.reshape(len(patches), -1, weights.shape[2])
        hessian = np.einsum("pic,pjc->cij", per_row, per_row, optimize=True)
    else:
        rows = weights.reshape(-1, weights.shape[-1]).T
        flat = patches.reshape(len(patches), -1)
        hessian = (flat.T @ flat)[np.newaxis]
    size = hessian.shape[-1]
    mean = np.einsum("rii->r", hessian) / size
    damping = _DAMPING * np.maximum(mean, 1e-12)
    hessian = hessian + damping[:, np.newaxis, np.newaxis] * np.eye(size)
    return Problem(kernel, rows, hessian)


def _patches(layer: keras.layers.Layer, inputs: np.ndarray) -> np.ndarray:
    """Input patches `(positions, height * width, channels)`, a random few."""
    channels = inputs.shape[-1]
    size, strides = tuple(layer.kernel_size), layer.strides[0]
    patches = keras.ops.image.extract_patches(
        inputs, size, strides=strides, padding=layer.padding
    )
    patches = keras.ops.convert_to_numpy(patches)
    patches = patches.reshape(-1, np.prod(layer.kernel_size), channels)
    if len(patches) > _NUM_POSITIONS:
        rng = np.random.default_rng(0)
        chosen = rng.choice(len(patches), _NUM_POSITIONS, replace=False)
        patches = patches[chosen]
    return patches.astype("float64")
