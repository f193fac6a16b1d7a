"""Finds the trained kernel in a weight tensor of the file, by its content.

NumPy only: no file, no model. Names, order and shapes all fail on some
architecture, but the numbers do not. Each output channel of the file holds
`±round(127 * codes / max|codes|)`: a folded BatchNormalization only multiplies
the channel, and the converter's scale divides that gain out again.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tflite_export.weights.records import Match, Slot, Window

MAX_CODE = 127
# The converter rounds once; the float gain may push a value across a tie.
TOLERANCE = 1.0
# A wrong kernel of the same shape reaches 0.3 at most (28 architectures).
MIN_COSINE = 0.9

# The converter's order of a kernel's axes. Other orders (attention projections,
# 1-D convolutions) are found by trying them all.
_CANONICAL_LAYOUT = {
    "CONV_2D": (3, 0, 1, 2),
    "DEPTHWISE_CONV_2D": (0, 1, 2, 3),
    "TRANSPOSE_CONV": (2, 0, 1, 3),
    "FULLY_CONNECTED": (1, 0),
}
_PROBE_ROWS = 2
_PROBE_SIZE = 512
_MAX_DOUBLES = 2**20


def as_rows(values: np.ndarray, axis: int | None) -> np.ndarray:
    """Returns `values` as a matrix with one row for each output channel.

    Example:

    >>> as_rows(np.array([[1, 2, 3], [4, 5, 6]]), axis=1)
    array([[1, 4],
           [2, 5],
           [3, 6]])
    """
    if axis is None:
        return values.reshape(1, -1)
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def from_rows(
    rows: np.ndarray, axis: int | None, shape: tuple[int, ...]
) -> np.ndarray:
    """Inverse of `as_rows`."""
    if axis is None:
        return rows.reshape(shape)
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(rows.reshape(moved), 0, axis))


def written_codes(match: Match, axis: int | None) -> np.ndarray:
    """Returns the int8 codes of a match, with zeros where it is silent."""
    rows = as_rows(match.codes, axis)
    rows = np.where(np.isnan(match.gains)[:, None], 0, rows).astype(np.int8)
    return from_rows(rows, axis, match.codes.shape)


def layouts(slot: Slot, shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yields the orders of a kernel's axes that give different arrangements.

    The converter's usual order comes first; axes of size 1 do not count.
    """
    orders = itertools.permutations(range(len(shape)))
    canonical = _CANONICAL_LAYOUT.get(slot.operator, ())
    first = [canonical] if len(canonical) == len(shape) else []
    seen = set()
    for order in itertools.chain(first, orders):
        essential = tuple(axis for axis in order if shape[axis] != 1)
        if essential not in seen:
            seen.add(essential)
            yield order


def arranged(match: Match, kernel: np.ndarray, axis: int | None) -> np.ndarray:
    """Returns other codes of a matched kernel as its slot would hold them.

    A channel has the sign of its gain; a silent one has zeros.

    Example:

    >>> codes = np.array([[3, 0], [-2, 1]], np.int8)
    >>> slot = Slot("FULLY_CONNECTED", np.array([[127, -85], [0, -127]]), 0)
    >>> match = match_slots([slot], {"dense/kernel": codes})[0]
    >>> arranged(match, np.array([[7, 1], [0, 1]], np.int8), 0).tolist()
    [[7, 0], [-1, -1]]
    """
    shape = match.codes.shape
    rows = as_rows(kernel.transpose(match.order).reshape(shape), axis)
    signs = np.where(np.isnan(match.gains), 0, match.signs)
    return from_rows(rows * signs[:, None].astype(np.int8), axis, shape)


def match_slots(
    slots: Sequence[Slot], kernels: Mapping[str, np.ndarray]
) -> list[Match | None]:
    """Finds the kernel that each slot holds.

    Several kernels may fit equally well: equal ones, zeros, or one weight a
    channel. Then the operator's usual arrangement decides, then the order:
    slots in order of execution, kernels in order of the model. Kernels may be
    floats or codes.

    Example:

    >>> codes = np.array([[3, 0], [-2, 1]], np.int8)
    >>> slot = Slot("FULLY_CONNECTED", np.array([[127, -85], [0, -127]]), 0)
    >>> match = match_slots([slot], {"dense/kernel": codes})[0]
    >>> match.path, match.codes.tolist()
    ('dense/kernel', [[3, -2], [0, -1]])
    """
    candidates = [_candidates(slot, kernels) for slot in slots]
    matches: list[Match | None] = [None] * len(slots)
    num_uses: Counter[str] = Counter()
    # The fewest candidates first: a tie then leaves each kernel its own slot.
    for index in sorted(range(len(slots)), key=lambda i: len(candidates[i])):
        if candidates[index]:
            match = min(candidates[index], key=lambda m: num_uses[m.path])
            num_uses[match.path] += 1
            matches[index] = match
    return matches


def match_windows(
    slots: Sequence[Slot], kernels: Mapping[str, np.ndarray]
) -> list[tuple[Window, Match | None]]:
    """Finds for each slot the window that holds a kernel, and the kernel.

    `pad_symmetrically` surrounds depthwise kernels with zeros.

    Example:

    >>> kernel = np.array([3, -2], np.int8).reshape(2, 1, 1, 1)
    >>> larger = np.pad(kernel[None, ..., 0], ((0, 0), (1, 0), (1, 1), (0, 0)))
    >>> slot = Slot("DEPTHWISE_CONV_2D", larger, 3)
    >>> ((window, match),) = match_windows([slot], {"kernel": kernel})
    >>> larger[window].ravel(), match.path
    (array([ 3, -2], dtype=int8), 'kernel')
    """
    found: list[tuple[Window, Match | None]] = []
    for slot, match in zip(slots, match_slots(slots, kernels), strict=True):
        windows = [] if match is not None else _windows(slot, kernels)
        found.append(((), match))
        for window in windows:
            part = match_slots([windowed(slot, window)], kernels)[0]
            if part is not None:
                found[-1] = (window, part)
                break
    return found


def windowed(slot: Slot, window: Window) -> Slot:
    """Returns the part of a slot that holds a kernel."""
    return slot._replace(codes=slot.codes[window])


def _windows(slot: Slot, kernels: Mapping[str, np.ndarray]) -> list[Window]:
    """The smaller parts that hold all non-zeros of the slot."""
    if slot.operator != "DEPTHWISE_CONV_2D":
        return []
    _, height, width, channels = slot.codes.shape
    sizes = {
        kernel.shape[:2]
        for kernel in kernels.values()
        if kernel.ndim == 4 and kernel.shape[2] * kernel.shape[3] == channels
    }
    num_nonzeros = np.count_nonzero(slot.codes)
    windows = [
        (slice(None), slice(top, top + rows), slice(left, left + columns))
        for rows, columns in sorted(sizes)
        for top in range(height - rows + 1)
        for left in range(width - columns + 1)
    ]
    return [
        window
        for window in windows
        if np.count_nonzero(slot.codes[window]) == num_nonzeros
    ]


def _candidates(slot: Slot, kernels: Mapping[str, np.ndarray]) -> list[Match]:
    """The kernels that fit best, in the order of the model."""
    fits = [fit_kernel(slot, path, kernel) for path, kernel in kernels.items()]
    found = [fit for fit in fits if fit is not None]
    if not found:
        return []
    best = min(_cost(fit) for fit in found)
    tied = [fit for fit in found if _cost(fit) == best]
    return [fit for fit in tied if fit.is_canonical] or tied


def _cost(match: Match) -> tuple[int, float]:
    return match.num_silent_rows, round(match.distance, 9)


def fit_kernel(slot: Slot, path: str, kernel: np.ndarray) -> Match | None:
    """Returns how the slot holds this kernel, or `None` if it does not."""
    if not _may_hold(slot, kernel):
        return None
    best = None
    probe = _probe_positions(slot)
    canonical = _CANONICAL_LAYOUT.get(slot.operator)
    for order in layouts(slot, kernel.shape):
        view = kernel.transpose(order)
        if not _fits_probe(slot, view, probe):
            continue
        arranged = view.reshape(slot.codes.shape)
        rows = as_rows(arranged, slot.axis)
        gains, distance = fit_rows(as_rows(slot.codes, slot.axis), rows)
        if gains is None or (best and best.distance <= distance):
            continue
        signs = np.where(gains < 0, -1, 1).astype(kernel.dtype)
        codes = from_rows(rows * signs[:, None], slot.axis, slot.codes.shape)
        # A depthwise kernel's last two axes become one.
        is_canonical = order == canonical and (
            view.shape == slot.codes.shape
            or slot.operator == "DEPTHWISE_CONV_2D"
        )
        best = Match(
            path=path,
            codes=codes,
            gains=np.abs(gains),
            distance=distance,
            is_canonical=is_canonical,
            order=order,
            signs=signs,
        )
    return best


def fit_rows(
    rows: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray | None, float]:
    """Fits each row of the file by a multiple of a row of codes.

    Both have the shape `(channels, n)`. Returns the gain of each channel by
    least squares (0 where both are zero, NaN where only the file's row is) and
    the mean distance; `(None, inf)` if any row is no multiple of its codes.

    Example:

    >>> fit_rows(np.array([[127, 0, -42]]), np.array([[-3, 0, 1]]))[0].round(2)
    array([-42.3])
    >>> fit_rows(np.array([[127, 9, -42]]), np.array([[-3, 0, 1]]))
    (None, inf)
    """
    # Doubles keep the distances of equal kernels equal. Large arrays are never
    # equal by chance, but doubles of them cost memory.
    dtype = np.float64 if rows.size <= _MAX_DOUBLES else np.float32
    t: np.ndarray = rows.astype(dtype)
    c: np.ndarray = codes.astype(dtype)
    tt, tc, cc = (
        np.einsum("ij,ij->i", a, b) for a, b in ((t, t), (t, c), (c, c))
    )
    is_silent = (tt == 0) & (cc > 0)
    if np.any((c == 0) & (t != 0)) or (is_silent.any() and not tt.any()):
        return None, math.inf
    gains = np.divide(tc, cc, out=np.zeros_like(tc), where=cc > 0)
    residual = np.abs(t - gains[:, None] * c)
    if residual.size and residual.max() > TOLERANCE:
        return None, math.inf
    if np.any(np.abs(tc) < MIN_COSINE * np.sqrt(tt * cc)):
        return None, math.inf
    gains[is_silent] = np.nan
    return gains, float(residual.mean()) if residual.size else 0.0


def _may_hold(slot: Slot, kernel: np.ndarray) -> bool:
    """Cheap conditions that every match meets."""
    if slot.codes.size != kernel.size:
        return False
    num_slot, num_kernel = map(np.count_nonzero, (slot.codes, kernel))
    if num_slot == 0 or num_slot > num_kernel:
        return num_slot == num_kernel
    peaks = np.abs(as_rows(slot.codes, slot.axis).astype(np.int16)).max(axis=1)
    # With a full range no integer code can have been rounded to zero.
    is_lossless = kernel.dtype == np.int8 and bool(np.all(peaks == MAX_CODE))
    return num_slot == num_kernel or not is_lossless


def _probe_positions(slot: Slot) -> list[np.ndarray]:
    """Flat positions of part of the fullest rows."""
    positions = np.arange(slot.codes.size).reshape(slot.codes.shape)
    rows = as_rows(positions, slot.axis)
    fullness = np.count_nonzero(as_rows(slot.codes, slot.axis), axis=1)
    fullest = np.argsort(fullness)[::-1][:_PROBE_ROWS]
    return [rows[row, :_PROBE_SIZE] for row in fullest]


def _fits_probe(slot: Slot, view: np.ndarray, probe: list[np.ndarray]) -> bool:
    flat = slot.codes.reshape(-1)
    for positions in probe:
        rows = flat[positions][None]
        codes = view[np.unravel_index(positions, view.shape)][None]
        if rows.any() and fit_rows(rows, codes)[0] is None:
            return False
    return True
