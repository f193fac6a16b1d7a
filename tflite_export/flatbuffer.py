"""Reads and writes `.tflite` files: operators, tensors, buffers, metadata.

The only file that touches the TFLite schema. It decides nothing: which tensors
to rewrite, and to what, is the business of `exact_weights.py`.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

FILE_IDENTIFIER = b"TFL3"
# The schema asks for 16 bytes (`force_align: 16`), and microcontroller kernels
# read weights in place and rely on it; the generated Python code ignores it.
BUFFER_ALIGNMENT = 16

_OPERATOR_NAMES = {
    code: name
    for name, code in vars(schema.BuiltinOperator).items()
    if not name.startswith("_")
}
_DTYPE_NAMES = {
    code: name.lower()
    for name, code in vars(schema.TensorType).items()
    if not name.startswith("_")
}
_NO_SCALES: np.ndarray = np.zeros(0, np.float32)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of the file; `data` is `None` when it is not a constant."""

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray | None
    scales: np.ndarray
    zero_points: np.ndarray
    axis: int
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator; `inputs` are tensor indices, -1 where one is left out."""

    subgraph: int
    index: int
    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class InputSite(NamedTuple):
    """The place where an operator reads a tensor."""

    subgraph: int
    operator: int
    position: int


class Constant(NamedTuple):
    """New contents of a constant tensor, with its scale or scales."""

    data: np.ndarray
    scales: np.ndarray
    axis: int

    def key(self) -> tuple[bytes, bytes, int]:
        """Equal for constants that can share one tensor."""
        return self.data.tobytes(), self.scales.tobytes(), self.axis


class _AlignedBuilder(flatbuffers.Builder):
    """A builder that starts every byte vector on `BUFFER_ALIGNMENT`."""

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        if x.dtype != np.uint8:
            return super().CreateNumpyVector(x)
        self.StartVector(1, x.size, BUFFER_ALIGNMENT)
        start: int = self.Head() - x.size
        self.head = start
        self.Bytes[start : start + x.size] = x.tobytes()
        return self.EndVector()


class Flatbuffer:
    """A `.tflite` file in memory.

    Args:
        data: The bytes of the file.

    Raises:
        ValueError: If the bytes are not a TFLite file.

    Example:

    >>> Flatbuffer(b"not a model")
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
        self._model = schema.ModelT.InitFromPackedBuf(data, 0)

    def to_bytes(self) -> bytes:
        """Returns the file; reading and writing it again changes no byte."""
        builder = _AlignedBuilder(1024)
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
        dtype = _DTYPE_NAMES[tensor.type]
        shape = () if tensor.shape is None else tuple(map(int, tensor.shape))
        raw = self._model.buffers[tensor.buffer].data
        size_bytes = 0 if raw is None else len(raw)
        quantization = tensor.quantization
        has_scale = quantization is not None and quantization.scale is not None
        return Tensor(
            index=index,
            name=tensor.name.decode(),
            dtype=dtype,
            shape=shape,
            data=_as_array(raw, dtype, shape) if size_bytes else None,
            scales=(
                np.array(quantization.scale, np.float32)
                if has_scale
                else _NO_SCALES
            ),
            zero_points=(
                np.array(quantization.zeroPoint, np.int64)
                if has_scale and quantization.zeroPoint is not None
                else np.zeros(0, np.int64)
            ),
            axis=int(quantization.quantizedDimension) if has_scale else 0,
            size_bytes=size_bytes,
        )

    def inputs(self) -> dict[str, Tensor]:
        """The model's inputs, by their names in the signature."""
        return self._interface("inputs")

    def outputs(self) -> dict[str, Tensor]:
        """The model's outputs, by name; `output_2` comes before `output_10`."""
        named = self._interface("outputs")
        return {name: named[name] for name in sorted(named, key=_natural)}

    def metadata(self, name: str) -> bytes | None:
        """Returns the metadata record of that name, or `None`."""
        for record in self._model.metadata or ():
            if record.name.decode() == name:
                data = self._model.buffers[record.buffer].data
                return b"" if data is None else bytes(bytearray(data))
        return None

    def set_metadata(self, name: str, data: bytes) -> None:
        """Adds a metadata record, or replaces the one of the same name."""
        kept = [
            r for r in self._model.metadata or () if r.name != name.encode()
        ]
        record = schema.MetadataT()
        record.name = name.encode()
        record.buffer = self._add_buffer(np.frombuffer(data, np.uint8))
        self._model.metadata = [*kept, record]

    def replace_inputs(self, writes: Mapping[InputSite, Constant]) -> None:
        """Gives operators new constants, and leaves all others as they were.

        Several operators may read one tensor, and several tensors one buffer.
        What another operator still needs unchanged is copied before writing.

        Args:
            writes: The new constant of each operator input to be changed.
        """
        readers = defaultdict(list)
        for operator in self.operators:
            for position, index in enumerate(operator.inputs):
                site = InputSite(operator.subgraph, operator.index, position)
                readers[operator.subgraph, index].append(site)
        written = defaultdict(list)
        for site in writes:
            written[site.subgraph, self._read_index(site)].append(site)
        for (subgraph, index), sites in written.items():
            targets = {}
            if len(readers[subgraph, index]) == len(sites):
                targets[writes[sites[0]].key()] = index
            for site in sites:
                constant = writes[site]
                if constant.key() not in targets:
                    targets[constant.key()] = self._copy_tensor(subgraph, index)
                target = targets[constant.key()]
                self._write_tensor(subgraph, target, constant)
                self._set_read_index(site, target)

    def _operator(self, subgraph: int, index: int) -> Operator:
        operator = self._model.subgraphs[subgraph].operators[index]
        code = self._model.operatorCodes[operator.opcodeIndex]
        # Old files hold the code in the first field, new ones in the second.
        builtin = max(code.deprecatedBuiltinCode, code.builtinCode)
        return Operator(
            subgraph,
            index,
            _OPERATOR_NAMES[builtin],
            int(code.version),
            _indices(operator.inputs),
            _indices(operator.outputs),
        )

    def _interface(self, side: str) -> dict[str, Tensor]:
        subgraph = self._model.subgraphs[0]
        for signature in self._model.signatureDefs or ():
            if signature.subgraphIndex == 0:
                return {
                    entry.name.decode(): self.tensor(0, int(entry.tensorIndex))
                    for entry in getattr(signature, side) or ()
                }
        tensors = [self.tensor(0, i) for i in _indices(getattr(subgraph, side))]
        return {tensor.name: tensor for tensor in tensors}

    def _read_index(self, site: InputSite) -> int:
        operator = self._model.subgraphs[site.subgraph].operators[site.operator]
        return int(operator.inputs[site.position])

    def _set_read_index(self, site: InputSite, index: int) -> None:
        operator = self._model.subgraphs[site.subgraph].operators[site.operator]
        # The vector that came from the file is a read-only view of its bytes.
        operator.inputs = np.array(operator.inputs, np.int32)
        operator.inputs[site.position] = index

    def _copy_tensor(self, subgraph: int, index: int) -> int:
        tensors = self._model.subgraphs[subgraph].tensors
        source, copy = tensors[index], schema.TensorT()
        vars(copy).update(vars(source))
        copy.name = source.name + b"_%d" % len(tensors)
        tensors.append(copy)
        return len(tensors) - 1

    def _write_tensor(
        self, subgraph: int, index: int, constant: Constant
    ) -> None:
        tensor = self._model.subgraphs[subgraph].tensors[index]
        raw = np.frombuffer(constant.data.tobytes(), np.uint8)
        if self._num_uses(tensor.buffer) == 1:
            self._model.buffers[tensor.buffer].data = raw
        else:
            tensor.buffer = self._add_buffer(raw)
        quantization = schema.QuantizationParametersT()
        vars(quantization).update(vars(tensor.quantization))
        quantization.scale = constant.scales.astype(np.float32)
        quantization.zeroPoint = np.zeros(constant.scales.size, np.int64)
        quantization.quantizedDimension = constant.axis
        tensor.quantization = quantization

    def _num_uses(self, buffer: int) -> int:
        holders = [
            *(t for s in self._model.subgraphs for t in s.tensors or ()),
            *(self._model.metadata or ()),
        ]
        return sum(holder.buffer == buffer for holder in holders)

    def _add_buffer(self, raw: np.ndarray) -> int:
        buffer = schema.BufferT()
        buffer.data = raw
        self._model.buffers.append(buffer)
        return len(self._model.buffers) - 1


def _indices(vector: Any) -> tuple[int, ...]:
    return () if vector is None else tuple(map(int, vector))


def _natural(name: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(p)) if p.isdigit() else (1, p) for p in parts]


def _as_array(
    raw: Any, dtype: str, shape: tuple[int, ...]
) -> np.ndarray | None:
    """The values, or `None` for types unknown to NumPy (int4, strings)."""
    if dtype == "bool" or re.fullmatch(r"u?int(8|16|32|64)|float\d\d", dtype):
        values = np.frombuffer(bytes(bytearray(raw)), dtype)
        # A sparse tensor holds fewer values than its shape says.
        return values.reshape(shape) if values.size == np.prod(shape) else None
    return None
