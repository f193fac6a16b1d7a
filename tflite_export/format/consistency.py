"""Checks that all indices of a file are in range."""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.format.damaged import DamagedFileError

SCHEMA_VERSION = 3
# Several tensors may share a constant, but not thousands.
MAX_SHARING = 32
_OPERATOR_NAMES = {
    code: name
    for name, code in vars(schema.BuiltinOperator).items()
    if not name.startswith("_")
}
# The number of inputs that this package reads without a check, by operator.
_NUM_INPUTS = {
    "BATCH_MATMUL": 2,
    "ADD": 2,
    "CONV_2D": 2,
    "DENSIFY": 1,
    "DEPTH_TO_SPACE": 1,
    "DEQUANTIZE": 1,
    "DEPTHWISE_CONV_2D": 2,
    "FULLY_CONNECTED": 2,
    "MEAN": 2,
    "MUL": 2,
    "PAD": 2,
    "RESIZE_BILINEAR": 2,
    "SOFTMAX": 1,
    "TRANSPOSE_CONV": 3,
}


def require_consistent(model: Any, data: bytes) -> None:
    """Raises an error unless all indices are in range.

    Shared constants are refused if reading them all would fill the memory.
    With `offsets` and `validate_sparse`, these are the checks of LiteRT's own
    verifier (`lite/core/tools/verifier.cc`), except for three:
    - the known operators and versions depend on the runtime: `targets` do it;
    - texts in string tensors are never read here;
    - constants whose bytes do not fit their shape have no values here
      (`Tensor.data` is None), and the runtime refuses them.
    """
    if model.version != SCHEMA_VERSION:
        raise DamagedFileError(f"version {model.version} of the format")
    if not model.subgraphs or not model.buffers:
        raise DamagedFileError("no graph or no buffers")
    num_bytes = 0
    for graph in model.subgraphs:
        for tensor in graph.tensors or ():
            _require_index(tensor.buffer, len(model.buffers), "buffer")
            num_bytes += raw_bytes(model, tensor, data).size
        _require_operators(model, graph)
        _require_order(model, graph, data)
        for side in (graph.inputs, graph.outputs):
            for index in indices(side):
                _require_index(index, len(graph.tensors or ()), "tensor")
    for record in model.metadata or ():
        _require_index(record.buffer, len(model.buffers), "buffer")
    for signature in model.signatureDefs or ():
        _require_signature(model, signature)
    if num_bytes > MAX_SHARING * len(data):
        raise DamagedFileError(f"constants of {num_bytes:,} bytes")


def raw_bytes(model: Any, tensor: Any, data: bytes) -> np.ndarray:
    """Returns the bytes of a constant; other tensors have none.

    A file over 2 GB holds its constants after the tables, at the end of `data`.
    """
    buffer = model.buffers[tensor.buffer]
    if buffer.data is not None:
        return np.asarray(buffer.data, np.uint8)
    # 0 and 1 mean that there are none.
    end = buffer.offset + buffer.size
    if buffer.offset <= 1 or not buffer.size:
        return np.zeros(0, np.uint8)
    if end > len(data):
        raise DamagedFileError(f"a buffer up to byte {end:,} of {len(data):,}")
    return np.frombuffer(data, np.uint8, buffer.size, buffer.offset)


def builtin_code(code: Any) -> int:
    """Returns the number of an operator; old files have it in another field."""
    return int(max(code.deprecatedBuiltinCode, code.builtinCode))


def operator_name(code: Any) -> str:
    """Returns an operator's name, also if it is newer than this schema."""
    builtin = builtin_code(code)
    return _OPERATOR_NAMES.get(builtin, f"OPERATOR_{builtin}")


def indices(vector: Any) -> tuple[int, ...]:
    """Returns a vector of the file as Python integers."""
    return () if vector is None else tuple(map(int, vector))


def _require_operators(model: Any, graph: Any) -> None:
    num_codes, num_tensors = (
        len(model.operatorCodes or ()),
        len(graph.tensors or ()),
    )
    for operator in graph.operators or ():
        _require_index(operator.opcodeIndex, num_codes, "operator code")
        name = operator_name(model.operatorCodes[operator.opcodeIndex])
        inputs = indices(operator.inputs)
        needed = _NUM_INPUTS.get(name, 0)
        if len(inputs) < needed or (needed and not indices(operator.outputs)):
            raise DamagedFileError(f"{name} with {len(inputs)} inputs")
        for position, index in enumerate(inputs):
            # -1 is an input that is left out.
            if index != -1 or position < needed:
                _require_index(index, num_tensors, "tensor")
        for index in indices(operator.outputs):
            _require_index(index, num_tensors, "tensor")


def _require_order(model: Any, graph: Any, data: bytes) -> None:
    """Raises an error unless each tensor is computed once, before its use."""
    written = set(indices(graph.inputs))
    readable = set(written)
    for index, tensor in enumerate(graph.tensors or ()):
        if tensor.isVariable or raw_bytes(model, tensor, data).size:
            written.add(index)
            readable.add(index)
        elif _is_empty(model, tensor):
            # It has no value, so it needs none, and may get one. Some writers
            # give every computed tensor a buffer of no bytes.
            readable.add(index)
    for position, operator in enumerate(graph.operators or ()):
        name = operator_name(model.operatorCodes[operator.opcodeIndex])
        # Custom operators have working memory among their inputs.
        read = () if name == "CUSTOM" else indices(operator.inputs)
        for index in read:
            if index >= 0 and index not in readable:
                raise DamagedFileError(
                    f"operator {position} that reads tensor {index} before it "
                    "is computed"
                )
        for index in indices(operator.outputs):
            if index in written:
                raise DamagedFileError(
                    f"operator {position} that writes tensor {index}, which is "
                    "an input, a constant or computed already"
                )
            written.add(index)
            readable.add(index)


def _is_empty(model: Any, tensor: Any) -> bool:
    """Whether a tensor has a buffer of no bytes, or no values by its shape."""
    return model.buffers[tensor.buffer].data is not None or 0 in indices(
        tensor.shape
    )


def _require_signature(model: Any, signature: Any) -> None:
    graphs = model.subgraphs
    _require_index(signature.subgraphIndex, len(graphs), "subgraph")
    count = len(graphs[signature.subgraphIndex].tensors or ())
    for entry in [*(signature.inputs or ()), *(signature.outputs or ())]:
        _require_index(entry.tensorIndex, count, "tensor")


def _require_index(index: int, count: int, kind: str) -> None:
    if not 0 <= index < count:
        raise DamagedFileError(
            f"the index {index} of a {kind}, with {count} in the file"
        )
