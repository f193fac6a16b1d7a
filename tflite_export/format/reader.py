"""The objects of the schema -> records of tensors and operators."""

import re
import struct
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.format.consistency import (
    builtin_code,
    operator_name,
    raw_bytes,
    require_consistent,
)
from tflite_export.format.damaged import DamagedFileError
from tflite_export.format.kinds import FILE_IDENTIFIER
from tflite_export.format.offsets import require_safe_offsets
from tflite_export.format.operators import read_options
from tflite_export.format.records import NO_SCALES, Operator, Tensor
from tflite_export.format.tensors import (
    as_array,
    dtype_name,
    indices,
    sparse_tensor,
)


def read_model(data: bytes) -> Any:
    """Returns the unpacked file; raises an error if it is damaged."""
    if data[4:8] != FILE_IDENTIFIER:
        raise ValueError(
            "Expected the bytes of a .tflite file (identifier "
            f"{FILE_IDENTIFIER!r} at byte 4). Received: {len(data)} bytes "
            f"that start with {bytes(data[:8])!r}."
        )
    require_safe_offsets(data)
    try:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        require_consistent(model, data)
    except (struct.error, TypeError, IndexError, AttributeError) as error:
        raise DamagedFileError(
            f"contents that cannot be read ({error})"
        ) from error
    return model


def drop_unread(model: Any) -> None:
    """Removes the buffers and operator codes that nothing uses.

    Buffer 0 stays, and is the one of all tensors without values.
    """
    graphs = model.subgraphs
    holders = [
        *(tensor for graph in graphs for tensor in graph.tensors or ()),
        *(model.metadata or ()),
    ]
    buffers = model.buffers
    # An old list of metadata names buffers too.
    if _is_blank(buffers[0]) and model.metadataBuffer is None:
        for holder in holders:
            if _is_blank(buffers[holder.buffer]):
                holder.buffer = 0
        _renumber(model, "buffers", holders, "buffer", {0})
    operators = [o for graph in graphs for o in graph.operators or ()]
    _renumber(model, "operatorCodes", operators, "opcodeIndex", set())


def _is_blank(buffer: Any) -> bool:
    return buffer.data is None and not buffer.size


def _renumber(
    model: Any, name: str, holders: list[Any], field: str, kept: set[int]
) -> None:
    """Removes the items of a list of the model that no field names."""
    items = getattr(model, name) or []
    used = sorted(kept | {int(getattr(holder, field)) for holder in holders})
    places = {old: new for new, old in enumerate(used)}
    for holder in holders:
        setattr(holder, field, places[int(getattr(holder, field))])
    setattr(model, name, [items[index] for index in used])


def read_tensor(model: Any, data: bytes, subgraph: int, index: int) -> Tensor:
    """Returns one tensor, with its values if they are in the file."""
    tensor = model.subgraphs[subgraph].tensors[index]
    dtype, shape = dtype_name(tensor.type), indices(tensor.shape)
    raw = raw_bytes(model, tensor, data)
    sparse = sparse_tensor(tensor.sparsity, raw, dtype, shape)
    levels = sparse.levels if sparse else ()
    scales, zero_points, axis = _quantization(tensor.quantization)
    return Tensor(
        index=index,
        name=decoded(tensor.name),
        dtype=dtype,
        shape=shape,
        data=as_array(raw, dtype, shape) if sparse is None else None,
        scales=scales,
        zero_points=zero_points,
        axis=axis,
        size_bytes=raw.size + sum(level.size_bytes for level in levels),
        sparse=sparse,
        is_open=min((*shape, *indices(tensor.shapeSignature)), default=0) < 0,
    )


def read_operator(model: Any, subgraph: int, index: int) -> Operator:
    """Returns one operator."""
    operator = model.subgraphs[subgraph].operators[index]
    code = model.operatorCodes[operator.opcodeIndex]
    is_custom = builtin_code(code) == schema.BuiltinOperator.CUSTOM
    return Operator(
        subgraph,
        index,
        decoded(code.customCode) if is_custom else operator_name(code),
        int(code.version),
        indices(operator.inputs),
        indices(operator.outputs),
        is_custom,
        read_options(operator),
        _custom_bytes(operator),
    )


def read_interface(model: Any, data: bytes, side: str) -> dict[str, Tensor]:
    """Returns the "inputs" or "outputs" of the model by the signature's names.

    `output_2` comes before `output_10`.
    """
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == 0:
            named = {
                decoded(entry.name): read_tensor(
                    model, data, 0, int(entry.tensorIndex)
                )
                for entry in getattr(signature, side) or ()
            }
            break
    else:
        places = indices(getattr(model.subgraphs[0], side))
        tensors = [read_tensor(model, data, 0, index) for index in places]
        named = {tensor.name: tensor for tensor in tensors}
    if side == "inputs":
        return named
    return {name: named[name] for name in sorted(named, key=_natural)}


def decoded(raw: bytes | None) -> str:
    """Returns the text of a name; a missing name is empty."""
    return "" if raw is None else raw.decode(errors="replace")


def _custom_bytes(operator: Any) -> int:
    if operator.customOptions is not None:
        return len(operator.customOptions)
    # A file over 2 GB holds them after the tables.
    return int(operator.largeCustomOptionsSize or 0)


def _quantization(held: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """The scales, zero points and axis of a tensor."""
    no_points: np.ndarray = np.zeros(0, np.int64)
    if held is None or held.scale is None:
        return NO_SCALES, no_points, 0
    points = no_points if held.zeroPoint is None else held.zeroPoint
    return (
        np.array(held.scale, np.float32),
        np.array(points, np.int64),
        int(held.quantizedDimension),
    )


def _natural(name: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(p)) if p.isdigit() else (1, p) for p in parts]
