"""Dense codes <-> the arrays of TFLite's `SparsityParameters`, NumPy only.

All axes but one are stored densely; that one stores its non-zero entries only
(compressed sparse rows, CSR). Files of other makers are read too: they may have
more sparse axes, or blocks.
"""

import dataclasses
import math

import numpy as np

# A damaged shape may ask for gigabytes of zeros.
MAX_EXPANSION = 1000
MAX_SMALL_SIZE = 2**24
_INDEX_TYPES = (np.uint8, np.uint16, np.int32)


@dataclasses.dataclass(frozen=True)
class DenseLevel:
    """An axis with every index stored.

    Attributes:
        size: Number of indices; for an axis with blocks, the number of blocks.
    """

    size: int

    @property
    def size_bytes(self) -> int:
        """Bytes of its arrays: it has none."""
        return 0


@dataclasses.dataclass(frozen=True)
class SparseLevel:
    """An axis with some indices stored.

    Attributes:
        segments: Integers of shape `(num_parents + 1,)`: parent `i` owns the
            indices from `segments[i]` up to `segments[i + 1]`.
        indices: Integers of shape `(segments[-1],)`: the stored indices.
    """

    segments: np.ndarray
    indices: np.ndarray

    @property
    def size_bytes(self) -> int:
        """Bytes of its arrays."""
        return int(self.segments.nbytes + self.indices.nbytes)


@dataclasses.dataclass(frozen=True)
class SparseTensor:
    """A tensor in TFLite's sparse form.

    Attributes:
        shape: Shape of the dense tensor.
        values: The stored values, in order of storage; 1-D.
        traversal_order: The axes from outermost to innermost in storage, then
            the block axes, numbered from `len(shape)`.
        block_map: For each block axis, the axis of the tensor that it cuts.
        levels: How each entry of `traversal_order` is stored.
    """

    shape: tuple[int, ...]
    values: np.ndarray
    traversal_order: tuple[int, ...]
    block_map: tuple[int, ...]
    levels: tuple[DenseLevel | SparseLevel, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the values, segments and indices."""
        arrays = sum(level.size_bytes for level in self.levels)
        return int(self.values.nbytes) + arrays

    @property
    def layout(self) -> str:
        """`"csr"` or the block, such as `"1x16"`."""
        rank = len(self.shape)
        sizes = [
            str(level.size) if isinstance(level, DenseLevel) else "sparse"
            for level in self.levels[rank:]
        ]
        return "x".join(["1", *sizes]) if sizes else "csr"


def encode_sparse(codes: np.ndarray, *, axis: int = -1) -> SparseTensor:
    """Stores the non-zero codes, with one axis sparse, in the narrowest types.

    Example:

    >>> codes = np.array([[0, 0, 5, 0], [0, 0, 0, 0], [1, 0, 0, -2]], np.int8)
    >>> sparse = encode_sparse(codes)
    >>> sparse.values
    array([ 5,  1, -2], dtype=int8)
    >>> sparse.levels[1].segments
    array([0, 1, 1, 3], dtype=uint8)
    >>> sparse.levels[1].indices
    array([2, 0, 3], dtype=uint8)
    """
    axis %= codes.ndim
    others = tuple(a for a in range(codes.ndim) if a != axis)
    # `reshape(-1, ...)` fails for an array of size 0.
    num_rows = math.prod(codes.shape[a] for a in others)
    rows = np.moveaxis(codes, axis, -1).reshape(num_rows, codes.shape[axis])
    counts = np.count_nonzero(rows, axis=1)
    segments = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    stored = SparseLevel(_narrow(segments), _narrow(np.nonzero(rows)[1]))
    return SparseTensor(
        shape=codes.shape,
        values=rows[rows != 0],
        traversal_order=(*others, axis),
        block_map=(),
        levels=(*(DenseLevel(codes.shape[a]) for a in others), stored),
    )


def smallest_encoding(codes: np.ndarray) -> SparseTensor:
    """Returns the smallest encoding over all axes.

    The sparse axis decides: a depthwise kernel `(1, 3, 3, 64)` needs 10
    segments along its last axis and 577 along its first.

    Example:

    >>> codes = np.zeros((1, 3, 3, 64), np.int8)
    >>> smallest_encoding(codes).size_bytes
    10
    """
    if math.prod(codes.shape) == 0:
        return encode_sparse(codes)
    encodings = [encode_sparse(codes, axis=a) for a in range(codes.ndim)]
    # The last axis wins ties: it is the one LiteRT's own tools write.
    return min(reversed(encodings), key=lambda tensor: tensor.size_bytes)


def decode_sparse(tensor: SparseTensor) -> np.ndarray:
    """Returns the dense tensor; the inverse of `encode_sparse`.

    It reads every layout that LiteRT's verifier accepts. It refuses arrays that
    contradict each other, or claim a tensor far larger than they are.

    Example:

    >>> codes = np.diag(np.array([1, 2, 3, 4], np.int8))
    >>> np.array_equal(decode_sparse(encode_sparse(codes, axis=0)), codes)
    True
    """
    validate_sparse(tensor)
    _require_moderate(tensor)
    sizes = _level_sizes(tensor)
    # The position of each entry along each axis, level by level.
    positions: dict[int, np.ndarray] = {
        axis: np.zeros(1, np.int64) for axis in range(len(sizes))
    }
    for axis, level in zip(tensor.traversal_order, tensor.levels, strict=True):
        count = len(positions[0])
        if isinstance(level, DenseLevel):
            repeats = np.full(count, level.size)
            indices = np.tile(np.arange(level.size), count)
        else:
            repeats = np.diff(level.segments.astype(np.int64))
            indices = level.indices.astype(np.int64)
        positions = {a: np.repeat(p, repeats) for a, p in positions.items()}
        positions[axis] = indices
    rank = len(tensor.shape)
    for block, axis in enumerate(tensor.block_map, start=rank):
        positions[axis] = positions[axis] * sizes[block] + positions[block]
    dense: np.ndarray = np.zeros(tensor.shape, tensor.values.dtype)
    dense[tuple(positions[axis] for axis in range(rank))] = tensor.values
    return dense


def validate_sparse(tensor: SparseTensor) -> None:
    """Raises an error unless the arrays describe exactly one dense tensor.

    It checks all that LiteRT's verifier does (`lite/core/tools/verifier.cc`).
    LiteRT's loader does not run that, and reads outside of broken arrays.
    These checks are stricter: segments start at 0, and their indices increase.
    Block axes are dense, at most one an axis of the tensor, and divide its
    size; the verifier rounds down, and lets them name one another. It takes a
    block's size from the place in storage, not from the order of traversal:
    the same for every layout that LiteRT's kernels read.

    Example:

    >>> sparse = encode_sparse(np.eye(2, dtype=np.int8))
    >>> validate_sparse(sparse)
    >>> validate_sparse(dataclasses.replace(sparse, values=sparse.values[:1]))
    Traceback (most recent call last):
    ...
    ValueError: A sparse tensor's values must be as many as its levels store. \
Received: 1 values for 2 places.
    """
    _validate_axes(tensor)
    sizes = _level_sizes(tensor)
    num_entries = 1
    for axis, level in zip(tensor.traversal_order, tensor.levels, strict=True):
        if isinstance(level, DenseLevel):
            if level.size != sizes[axis]:
                raise _fault(
                    f"dense level of axis {axis} must have the axis's size, "
                    f"{sizes[axis]}",
                    level.size,
                )
            num_entries *= level.size
        else:
            _validate_sparse_level(level, axis, sizes[axis], num_entries)
            num_entries = level.indices.size
    if tensor.values.size != num_entries:
        raise _fault(
            "values must be as many as its levels store",
            f"{tensor.values.size} values for {num_entries} places",
        )


def _validate_axes(tensor: SparseTensor) -> None:
    rank, order = len(tensor.shape), tensor.traversal_order
    block_rank = len(order) - rank
    if min(tensor.shape, default=0) < 0 or rank == 0:
        raise _fault("shape must be at least one size >= 0", tensor.shape)
    if len(tensor.levels) != len(order) or block_rank < 0:
        raise _fault(
            "traversal order must name each axis and each level",
            f"{len(order)} entries for {rank} axes, {len(tensor.levels)} "
            "levels",
        )
    if sorted(order[:rank]) != list(range(rank)) or sorted(
        order[rank:]
    ) != list(range(rank, len(order))):
        raise _fault(
            "traversal order must be all axes, then all block axes", order
        )
    is_axis = all(0 <= axis < rank for axis in tensor.block_map)
    is_unique = len(set(tensor.block_map)) == len(tensor.block_map)
    if len(tensor.block_map) != block_rank or not is_axis or not is_unique:
        raise _fault(
            "block map must name one axis for each block axis",
            f"{tensor.block_map} for {block_rank} block axes",
        )


def _level_sizes(tensor: SparseTensor) -> list[int]:
    """The size of each axis, counted in blocks, then of each block axis."""
    rank = len(tensor.shape)
    sizes = list(tensor.shape)
    by_axis = dict(zip(tensor.traversal_order, tensor.levels, strict=True))
    for block, axis in enumerate(tensor.block_map, start=rank):
        level = by_axis[block]
        if not isinstance(level, DenseLevel) or level.size <= 0:
            raise _fault("block axes must be dense", f"axis {block}")
        if sizes[axis] % level.size:
            raise _fault(
                f"block of axis {axis} must divide its size {sizes[axis]}",
                level.size,
            )
        sizes[axis] //= level.size
        sizes.append(level.size)
    return sizes


def _validate_sparse_level(
    level: SparseLevel, axis: int, size: int, num_parents: int
) -> None:
    segments: np.ndarray = level.segments.astype(np.int64)
    indices: np.ndarray = level.indices.astype(np.int64)
    if segments.size != num_parents + 1:
        raise _fault(
            f"segments of axis {axis} must be {num_parents + 1}", segments.size
        )
    if segments[0] != 0 or (np.diff(segments) < 0).any():
        raise _fault(
            f"segments of axis {axis} must start at 0 and not decrease",
            segments[:8].tolist(),
        )
    if segments[-1] != indices.size:
        raise _fault(
            f"indices of axis {axis} must be as many as the last segment ends "
            f"at, {segments[-1]}",
            indices.size,
        )
    if indices.size and not (0 <= indices.min() and indices.max() < size):
        raise _fault(
            f"indices of axis {axis} must be in [0, {size})",
            f"[{indices.min()}, {indices.max()}]",
        )
    is_first: np.ndarray = np.zeros(indices.size + 1, bool)
    is_first[segments] = True
    if (
        indices.size
        and ((np.diff(indices) <= 0) & ~is_first[1 : indices.size]).any()
    ):
        raise _fault(f"indices of axis {axis} must increase", "falling ones")


def _require_moderate(tensor: SparseTensor) -> None:
    size = math.prod(tensor.shape)
    if size > max(MAX_EXPANSION * tensor.size_bytes, MAX_SMALL_SIZE):
        raise _fault(
            f"shape must have at most {MAX_EXPANSION} values for each stored "
            "byte",
            f"{tensor.shape} for {tensor.size_bytes:,} bytes",
        )


def _narrow(values: np.ndarray) -> np.ndarray:
    """The values in the narrowest type that TFLite has for them."""
    largest = int(values.max(initial=0))
    for dtype in _INDEX_TYPES:
        if largest <= np.iinfo(dtype).max:
            return values.astype(dtype)
    raise ValueError(
        "A sparse tensor must have fewer than 2**31 stored values. "
        f"Received: {largest}."
    )


def _fault(expected: str, received: object) -> ValueError:
    return ValueError(f"A sparse tensor's {expected}. Received: {received}.")
