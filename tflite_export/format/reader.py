"""Reads `.tflite` files: operators, tensors, buffers, metadata."""

import re
import struct

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.format.consistency import (
    builtin_code,
    damaged,
    operator_name,
    raw_bytes,
    require_consistent,
)
from tflite_export.format.offsets import require_safe_offsets
from tflite_export.format.operators import read_options
from tflite_export.format.records import NO_SCALES, Operator, Tensor
from tflite_export.format.tensors import (
    as_array,
    dtype_name,
    indices,
    sparse_tensor,
)

FILE_IDENTIFIER = b"TFL3"
# The schema asks for 16 bytes (`force_align: 16`), and microcontroller kernels
# read weights in place and rely on it; the generated Python code ignores it.
BUFFER_ALIGNMENT = 16


class _Builder(flatbuffers.Builder):
    """A builder that starts every byte vector on `BUFFER_ALIGNMENT`.

    Equal vectors are written once: the zero points of weights, eight bytes of
    zeros for each channel, are a fifth of the file of a small network.
    """

    def __init__(self, initial_size: int) -> None:
        super().__init__(initial_size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = self._create(x)
        return self._written[key]

    def _create(self, x: np.ndarray) -> int:
        if x.dtype != np.uint8:
            return int(super().CreateNumpyVector(x))
        self.StartVector(1, x.size, BUFFER_ALIGNMENT)
        start: int = self.Head() - x.size
        self.head = start
        self.Bytes[start : start + x.size] = x.tobytes()
        return self.EndVector()


class FlatbufferReader:
    """A `.tflite` file in memory.

    Args:
        data: The bytes of the file.

    Raises:
        ValueError: If the bytes are not a TFLite file.

    Example:

    >>> FlatbufferReader(b"not a model")
    Traceback (most recent call last):
    ...
    ValueError: Expected the bytes of a .tflite file (identifier b'TFL3' at \
byte 4). Received: 11 bytes that start with b'not a mo'.
    """

    def __init__(self, data: bytes) -> None:
        if data[4:8] != FILE_IDENTIFIER:
            raise ValueError(
                "Expected the bytes of a .tflite file (identifier "
                f"{FILE_IDENTIFIER!r} at byte 4). Received: {len(data)} bytes "
                f"that start with {bytes(data[:8])!r}."
            )
        require_safe_offsets(data)
        self._data = data
        try:
            self._model = schema.ModelT.InitFromPackedBuf(data, 0)
            require_consistent(self._model, data)
        except (struct.error, TypeError, IndexError, AttributeError) as error:
            raise damaged(f"contents that cannot be read ({error})") from error

    def to_bytes(self) -> bytes:
        """Returns the file; reading and writing it again changes no byte."""
        builder = _Builder(1024)
        builder.Finish(self._model.Pack(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())

    @property
    def operators(self) -> list[Operator]:
        """All operators, subgraph by subgraph, in order of execution."""
        return [
            self._operator(s, o)
            for s, subgraph in enumerate(self._model.subgraphs)
            for o in range(len(subgraph.operators or ()))
        ]

    def tensors(self, subgraph: int = 0) -> list[Tensor]:
        """All tensors of one subgraph, by index."""
        count = len(self._model.subgraphs[subgraph].tensors or ())
        return [self.tensor(subgraph, index) for index in range(count)]

    @property
    def num_subgraphs(self) -> int:
        """The main graph and the bodies of its control flow."""
        return len(self._model.subgraphs)

    def tensor(self, subgraph: int, index: int) -> Tensor:
        """Returns one tensor, with its values if they are in the file."""
        tensor = self._model.subgraphs[subgraph].tensors[index]
        dtype = dtype_name(tensor.type)
        shape = () if tensor.shape is None else tuple(map(int, tensor.shape))
        raw = raw_bytes(self._model, tensor, self._data)
        sparse = sparse_tensor(tensor.sparsity, raw, dtype, shape)
        quantization = tensor.quantization
        has_scale = quantization is not None and quantization.scale is not None
        return Tensor(
            index=index,
            name=decoded(tensor.name),
            dtype=dtype,
            shape=shape,
            data=as_array(raw, dtype, shape) if sparse is None else None,
            scales=(
                np.array(quantization.scale, np.float32)
                if has_scale
                else NO_SCALES
            ),
            zero_points=(
                np.array(quantization.zeroPoint, np.int64)
                if has_scale and quantization.zeroPoint is not None
                else np.zeros(0, np.int64)
            ),
            axis=int(quantization.quantizedDimension) if has_scale else 0,
            size_bytes=raw.size
            + sum(
                level.size_bytes for level in (sparse.levels if sparse else ())
            ),
            sparse=sparse,
        )

    def inputs(self) -> dict[str, Tensor]:
        """The model's inputs, by their names in the signature."""
        return self._interface("inputs")

    def outputs(self) -> dict[str, Tensor]:
        """The model's outputs, by name; `output_2` comes before `output_10`."""
        named = self._interface("outputs")
        return {name: named[name] for name in sorted(named, key=_natural)}

    def interface(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tensors of the model's inputs and outputs, by position."""
        subgraph = self._model.subgraphs[0]
        return indices(subgraph.inputs), indices(subgraph.outputs)

    def metadata(self, name: str) -> bytes | None:
        """Returns the metadata record of that name, or `None`."""
        for record in self._model.metadata or ():
            if decoded(record.name) == name:
                data = self._model.buffers[record.buffer].data
                return b"" if data is None else np.asarray(data).tobytes()
        return None

    def _operator(self, subgraph: int, index: int) -> Operator:
        operator = self._model.subgraphs[subgraph].operators[index]
        code = self._model.operatorCodes[operator.opcodeIndex]
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
        )

    def _interface(self, side: str) -> dict[str, Tensor]:
        subgraph = self._model.subgraphs[0]
        for signature in self._model.signatureDefs or ():
            if signature.subgraphIndex == 0:
                return {
                    decoded(entry.name): self.tensor(0, int(entry.tensorIndex))
                    for entry in getattr(signature, side) or ()
                }
        tensors = [self.tensor(0, i) for i in indices(getattr(subgraph, side))]
        return {tensor.name: tensor for tensor in tensors}


def _natural(name: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(p)) if p.isdigit() else (1, p) for p in parts]


def decoded(raw: bytes | None) -> str:
    """Returns the text of a name; no name is an empty one."""
    return "" if raw is None else raw.decode(errors="replace")
