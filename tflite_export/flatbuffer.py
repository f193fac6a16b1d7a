"""Reads and writes `.tflite` files: operators, tensors, buffers, metadata.

With its neighbours `flatbuffer_*.py`, the only file that touches the TFLite
schema. It decides nothing: which tensors to rewrite, and to
what, is the business of `exact_weights.py`.
"""

import re
import struct
from collections import defaultdict
from collections.abc import Collection, Mapping

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export import packing
from tflite_export.flatbuffer_consistency import (
    builtin_code,
    damaged,
    operator_name,
    raw_bytes,
    require_consistent,
)
from tflite_export.flatbuffer_guard import require_safe_offsets
from tflite_export.flatbuffer_operators import (
    OPERATOR_VERSIONS,
    new_operator,
    read_options,
    write_option,
)
from tflite_export.flatbuffer_tensors import (
    as_array,
    dtype_name,
    indices,
    packed_sparsity,
    sparse_tensor,
)
from tflite_export.graph import Constant, InputSite, Operator, Tensor
from tflite_export.sparse_encoding import SparseTensor, validate_sparse

FILE_IDENTIFIER = b"TFL3"
# The schema asks for 16 bytes (`force_align: 16`), and microcontroller kernels
# read weights in place and rely on it; the generated Python code ignores it.
BUFFER_ALIGNMENT = 16

_NO_SCALES: np.ndarray = np.zeros(0, np.float32)


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
            name=_text(tensor.name),
            dtype=dtype,
            shape=shape,
            data=as_array(raw, dtype, shape) if sparse is None else None,
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
            if _text(record.name) == name:
                data = self._model.buffers[record.buffer].data
                return b"" if data is None else np.asarray(data).tobytes()
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

    def shorten_names(self) -> None:
        """Leaves of each name the part that names a layer.

        The converter joins the names of all that it fused with semicolons; in
        a small network they are a tenth of the file. The names of inputs and
        outputs stay, and names stay unique.
        """
        for subgraph in self._model.subgraphs:
            kept = {*indices(subgraph.inputs), *indices(subgraph.outputs)}
            tensors = list(enumerate(subgraph.tensors or ()))
            taken = {tensors[index][1].name for index in kept}
            for index, tensor in tensors:
                if index not in kept and tensor.name:
                    tensor.name = _unique(_layer_part(tensor.name), taken)
                    taken.add(tensor.name)

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

    def densify(self, subgraph: int, index: int, sparse: SparseTensor) -> None:
        """Stores a constant sparsely; a DENSIFY operator makes it dense again.

        Args:
            subgraph: The subgraph of the tensor.
            index: The constant; its readers stay as they are.
            sparse: The same values, sparse.
        """
        validate_sparse(sparse)
        graph = self._model.subgraphs[subgraph]
        stored = graph.tensors[self._copy_tensor(subgraph, index)]
        # The scales of the dense tensor count; a second copy is only larger.
        stored.name, stored.quantization = b"sparse_%d" % index, None
        raw = np.frombuffer(sparse.values.tobytes(), np.uint8)
        stored.buffer = self._add_buffer(raw)
        stored.sparsity = packed_sparsity(sparse)
        self._become_computed(graph.tensors[index])
        self._insert(subgraph, 0, "DENSIFY", [len(graph.tensors) - 1], index)

    def dequantize(self, subgraph: int, index: int, codes: Constant) -> int:
        """Stores a float constant as integers; a DEQUANTIZE makes it float.

        Args:
            subgraph: The subgraph of the tensor.
            index: The constant; its readers stay as they are.
            codes: The integers, int8, with the scales of the real values.

        Returns:
            The index of the tensor that holds the integers.
        """
        stored = self._copy_tensor(subgraph, index)
        tensors = self._model.subgraphs[subgraph].tensors
        real, tensor = tensors[index], tensors[stored]
        tensor.name, tensor.type = b"codes_%d" % index, schema.TensorType.INT8
        self._write_tensor(subgraph, stored, codes)
        self._become_computed(real)
        self._insert(subgraph, 0, "DEQUANTIZE", [stored], index)
        return stored

    def insert_pad(
        self, operator: Operator, margins: tuple[tuple[int, int], ...]
    ) -> None:
        """Pads what an operator reads with zeros, and makes it VALID.

        Args:
            operator: The operator; its index grows by one.
            margins: Zeros before and after, for each axis of its first input.
        """
        subgraph, source = operator.subgraph, operator.inputs[0]
        tensors = self._model.subgraphs[subgraph].tensors
        padded = self._copy_tensor(subgraph, source)
        grown = np.array(tensors[source].shape, np.int32) + np.sum(margins, 1)
        tensors[padded].shape = grown.astype(np.int32)
        tensors[padded].shapeSignature = None
        amounts = schema.TensorT()
        amounts.name, amounts.type = b"margins", schema.TensorType.INT32
        amounts.shape = np.array(np.shape(margins), np.int32)
        raw = np.array(margins, np.int32).tobytes()
        amounts.buffer = self._add_buffer(np.frombuffer(raw, np.uint8))
        tensors.append(amounts)
        held = self._model.subgraphs[subgraph].operators[operator.index]
        write_option(held, "padding", "VALID")
        site = InputSite(subgraph, operator.index, 0)
        self._set_read_index(site, padded)
        inputs = [source, len(tensors) - 1]
        self._insert(subgraph, operator.index, "PAD", inputs, padded)

    def drop_scales(self, tensors: Collection[tuple[int, int]]) -> None:
        """Removes the scales of tensors that hold packed bytes.

        Args:
            tensors: The tensors, by subgraph and index.
        """
        for subgraph, index in tensors:
            self._model.subgraphs[subgraph].tensors[index].quantization = None

    def fold(
        self, name: str, values: Mapping[tuple[int, int], np.ndarray]
    ) -> None:
        """Removes operators, and makes constants of what they computed.

        Args:
            name: The operator, such as `"TFLM_DECODE"`.
            values: Its outputs, by subgraph and tensor index, in the type of
                the tensor.
        """
        for (subgraph, index), array in values.items():
            raw = np.frombuffer(array.tobytes(), np.uint8)
            tensor = self._model.subgraphs[subgraph].tensors[index]
            tensor.buffer = self._add_buffer(raw)
        for operator in reversed(self.operators):
            if operator.name == name:
                graph = self._model.subgraphs[operator.subgraph]
                del graph.operators[operator.index]

    def requantize_output(self, operator: Operator, scales: np.ndarray) -> None:
        """Gives an int8 output a scale; a QUANTIZE behind restores the old one.

        The operators behind it move by one place.

        Args:
            operator: An operator with one output.
            scales: The new scale, shape `(1,)`; its zero point is 0.
        """
        graph = self._model.subgraphs[operator.subgraph]
        old = operator.outputs[0]
        new = self._copy_tensor(operator.subgraph, old)
        quantization = schema.QuantizationParametersT()
        quantization.scale = scales.astype(np.float32)
        quantization.zeroPoint = np.zeros(1, np.int64)
        graph.tensors[new].quantization = quantization
        graph.operators[operator.index].outputs = np.array([new], np.int32)
        position = operator.index + 1
        self._insert(operator.subgraph, position, "QUANTIZE", [new], old)

    def _operator(self, subgraph: int, index: int) -> Operator:
        operator = self._model.subgraphs[subgraph].operators[index]
        code = self._model.operatorCodes[operator.opcodeIndex]
        is_custom = builtin_code(code) == schema.BuiltinOperator.CUSTOM
        return Operator(
            subgraph,
            index,
            _text(code.customCode) if is_custom else operator_name(code),
            int(code.version),
            indices(operator.inputs),
            indices(operator.outputs),
            is_custom,
            read_options(operator),
        )

    def _insert(
        self,
        subgraph: int,
        position: int,
        name: str,
        inputs: list[int],
        output: int,
    ) -> None:
        """Adds an operator in front of the one at that position."""
        operator = new_operator(name, self._operator_code(name), inputs, output)
        self._model.subgraphs[subgraph].operators.insert(position, operator)

    def _become_computed(self, tensor: schema.TensorT) -> None:
        """Takes away the values of a constant, which an operator computes."""
        if self._num_uses(tensor.buffer) == 1:
            self._model.buffers[tensor.buffer].data = None
        # Buffer 0 is empty by convention.
        tensor.buffer = 0

    def _operator_code(self, name: str) -> int:
        """The index of an operator's code, which is added if missing."""
        builtin = getattr(schema.BuiltinOperator, name)
        version = OPERATOR_VERSIONS[name]
        for index, code in enumerate(self._model.operatorCodes):
            # A newer version knows all that an older one does.
            if builtin_code(code) == builtin and code.version >= version:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.version = version
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1

    def _interface(self, side: str) -> dict[str, Tensor]:
        subgraph = self._model.subgraphs[0]
        for signature in self._model.signatureDefs or ():
            if signature.subgraphIndex == 0:
                return {
                    _text(entry.name): self.tensor(0, int(entry.tensorIndex))
                    for entry in getattr(signature, side) or ()
                }
        tensors = [self.tensor(0, i) for i in indices(getattr(subgraph, side))]
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
        if constant.bit_width == 4:
            raw = packing.pack(constant.data, bit_width=4)
            tensor.type = schema.TensorType.INT4
        if self._num_uses(tensor.buffer) == 1:
            self._model.buffers[tensor.buffer].data = raw
        else:
            tensor.buffer = self._add_buffer(raw)
        if constant.data.shape != tuple(tensor.shape):
            tensor.shape = np.array(constant.data.shape, np.int32)
            tensor.shapeSignature = None
        if not constant.scales.size:
            return
        quantization = schema.QuantizationParametersT()
        vars(quantization).update(vars(tensor.quantization or quantization))
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


def _layer_part(name: bytes) -> bytes:
    parts = name.split(b";")
    # A fused normalization comes first, though the layer is the other's.
    named = [
        p for p in parts if b"/batchnorm/" not in p and b"Squeeze" not in p
    ]
    return (named or parts)[0]


def _unique(name: bytes, taken: set[bytes]) -> bytes:
    candidates = (
        name,
        *(b"%s_%d" % (name, i) for i in range(2, len(taken) + 3)),
    )
    return next(c for c in candidates if c not in taken)


def _natural(name: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(p)) if p.isdigit() else (1, p) for p in parts]


def _text(raw: bytes | None) -> str:
    return "" if raw is None else raw.decode(errors="replace")
