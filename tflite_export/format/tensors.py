"""One tensor's type, values and sparsity <-> the objects of the schema."""

import math
import re
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.format import packing
from tflite_export.format.consistency import indices
from tflite_export.format.sparse import DenseLevel, SparseLevel, SparseTensor

# Amounts to pad, axes, indices, texts and masks: they steer the graph.
GRAPH_TYPES = (
    *("int32", "int64", "uint32", "uint64"),
    *("string", "bool", "resource", "variant"),
)
_DTYPE_NAMES = {
    code: name.lower()
    for name, code in vars(schema.TensorType).items()
    if not name.startswith("_")
}


def dtype_name(code: int) -> str:
    """Returns the name of a type, such as `"int8"`, also of unknown ones."""
    return _DTYPE_NAMES.get(code, f"type_{code}")


def dtype_code(name: str) -> int:
    """Returns the number of a type; the inverse of `dtype_name`."""
    return int(getattr(schema.TensorType, name.upper()))


def as_array(
    raw: np.ndarray, dtype: str, shape: tuple[int, ...]
) -> np.ndarray | None:
    """The values, or `None` for types without numbers, and float8."""
    size = math.prod(shape)
    if not raw.size or min(shape, default=0) < 0:
        return None
    packed = re.fullmatch(r"(u?)int([24])", dtype)
    if packed:
        bit_width = int(packed[2])
        if raw.size != -(-size * bit_width // 8):
            return None
        codes = packing.unpack(raw, bit_width=bit_width, shape=shape)
        return codes & (2**bit_width - 1) if packed[1] else codes
    if dtype == "bfloat16" and raw.size == 2 * size:
        # The upper half of a float32.
        upper = np.frombuffer(np.ascontiguousarray(raw), np.uint16)
        bits = upper.astype(np.uint32) << 16
        return bits.view(np.float32).reshape(shape)
    if not is_number(dtype) or raw.size != size * np.dtype(dtype).itemsize:
        return None
    return np.frombuffer(np.ascontiguousarray(raw), dtype).reshape(shape)


def is_number(dtype: str) -> bool:
    """Whether NumPy has the type."""
    return dtype == "bool" or bool(
        re.fullmatch(
            r"u?int(8|16|32|64)|float(16|32|64)|complex(64|128)", dtype
        )
    )


def sparse_tensor(
    sparsity: Any, raw: np.ndarray, dtype: str, shape: tuple[int, ...]
) -> SparseTensor | None:
    """Returns the stored arrays, unchecked; `None` for a dense tensor."""
    if sparsity is None:
        return None
    kind = np.dtype(dtype) if is_number(dtype) else np.dtype(np.uint8)
    usable = raw[: raw.size // kind.itemsize * kind.itemsize]
    return SparseTensor(
        shape=shape,
        values=np.frombuffer(np.ascontiguousarray(usable), kind),
        traversal_order=indices(sparsity.traversalOrder),
        block_map=indices(sparsity.blockMap),
        levels=tuple(_level(d) for d in sparsity.dimMetadata or ()),
    )


def _level(dimension: Any) -> DenseLevel | SparseLevel:
    if dimension.format == schema.DimensionType.DENSE:
        return DenseLevel(int(dimension.denseSize))
    vectors = (dimension.arraySegments, dimension.arrayIndices)
    return SparseLevel(
        *(
            np.zeros(0, np.uint8)
            if vector is None or vector.values is None
            else np.asarray(vector.values)
            for vector in vectors
        )
    )


def packed_sparsity(sparse: SparseTensor) -> Any:
    """Returns the object of the schema for a sparse tensor."""
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder = np.array(sparse.traversal_order, np.int32)
    sparsity.blockMap = np.array(sparse.block_map, np.int32)
    sparsity.dimMetadata = [_packed_level(level) for level in sparse.levels]
    return sparsity


def _packed_level(level: DenseLevel | SparseLevel) -> Any:
    dimension = schema.DimensionMetadataT()
    if isinstance(level, DenseLevel):
        dimension.format = schema.DimensionType.DENSE
        dimension.denseSize = level.size
        return dimension
    dimension.format = schema.DimensionType.SPARSE_CSR
    for name, values in (
        ("arraySegments", level.segments),
        ("arrayIndices", level.indices),
    ):
        # uint8 -> Uint8VectorT, the class and the number of the union.
        kind = f"{values.dtype.name.capitalize()}Vector"
        vector = getattr(schema, f"{kind}T")()
        vector.values = values
        setattr(dimension, name, vector)
        setattr(
            dimension, f"{name}Type", getattr(schema.SparseIndexVector, kind)
        )
    return dimension
