"""Rounding of rows: what is left of them makes up for what is lost.

The loss of a row `w` that becomes `v` is `(w - v) @ H @ (w - v)`, with the
Hessian `H` of its inputs. All arrays have a first axis of groups.

References:

- [Optimal Brain Compression, 2022](https://arxiv.org/abs/2208.11580), the
  loss. Differs from it in: one inverse for all rows of a group.
- [GPTQ, 2022](https://arxiv.org/abs/2210.17323), the order and the Cholesky
  factor. Differs from it in: pruned weights stay zero.
"""

from collections.abc import Callable

import numpy as np

Round = Callable[[np.ndarray], np.ndarray]

# Of the conjugate gradients: the loss falls by a factor of 1e6 or more.
_NUM_REFITS = 40

# Columns that are rounded before their errors reach the others.
_BLOCK = 64


def inverse_factor(hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns an order of the columns, and the factor of the inverse in it.

    The columns with the largest inputs come first: their errors find most
    others to make up for them. The factor is upper triangular, `U.T @ U` is
    the inverse.
    """
    diagonal = np.einsum("gii->gi", hessian)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    sorted_ = np.take_along_axis(hessian, order[:, :, None], axis=1)
    sorted_ = np.take_along_axis(sorted_, order[:, None, :], axis=2)
    inverse = np.linalg.inv(sorted_.astype("float64"))
    inverse = (inverse + inverse.transpose(0, 2, 1)) / 2
    factor = np.linalg.cholesky(inverse).transpose(0, 2, 1)
    return order, factor.astype("float32")


def refit(
    rows: np.ndarray, hessian: np.ndarray, is_kept: np.ndarray
) -> np.ndarray:
    """Returns rows with the least loss whose other weights are zero.

    By conjugate gradients within the kept weights of each row.
    """
    if is_kept.all():
        return rows
    kept = is_kept.astype(rows.dtype)
    diagonal = np.einsum("gii->gi", hessian)[:, None, :]
    found = rows * kept
    residual = ((rows - found) @ hessian) * kept
    scaled = residual / diagonal
    direction = scaled
    old = _dot(residual, scaled)
    for _ in range(min(_NUM_REFITS, rows.shape[-1])):
        product = (direction @ hessian) * kept
        step = _ratio(old, _dot(direction, product))
        found = found + step * direction
        residual = residual - step * product
        scaled = residual / diagonal
        new = _dot(residual, scaled)
        direction = scaled + _ratio(new, old) * direction
        old = new
    return found


def round_in_order(
    rows: np.ndarray,
    order: np.ndarray,
    factor: np.ndarray,
    is_kept: np.ndarray,
    round_column: Round,
) -> np.ndarray:
    """Rounds column by column; later columns make up for the errors.

    `round_column` maps weights of the shape `(groups, rows)`.
    """
    index = order[:, None, :]
    work = np.take_along_axis(rows, index, axis=2)
    kept = np.take_along_axis(is_kept, index, axis=2)
    for start in range(0, work.shape[-1], _BLOCK):
        stop = min(start + _BLOCK, work.shape[-1])
        errors = np.zeros((*work.shape[:2], stop - start), work.dtype)
        for i in range(start, stop):
            rounded = round_column(work[:, :, i]) * kept[:, :, i]
            error = (work[:, :, i] - rounded) / factor[:, i, i, None]
            work[:, :, i] = rounded
            later = factor[:, None, i, i + 1 : stop]
            work[:, :, i + 1 : stop] -= error[:, :, None] * later
            errors[:, :, i - start] = error
        work[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    found = np.empty_like(work)
    np.put_along_axis(found, index, work, axis=2)
    return found


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(a * b, axis=-1, keepdims=True)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)
