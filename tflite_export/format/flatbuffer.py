"""A `.tflite` file in memory: read, find, add, copy, replace, insert, remove.

`edits` has the edits of several steps.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.format import packing, reader
from tflite_export.format.builder import packed_model
from tflite_export.format.consistency import builtin_code
from tflite_export.format.operators import (
    DECODE,
    OPERATOR_VERSIONS,
    new_operator,
    write_option,
)
from tflite_export.format.records import (
    NO_SCALES,
    Constant,
    InputSite,
    Operator,
    Tensor,
)
from tflite_export.format.sparse import SparseTensor, validate_sparse
from tflite_export.format.tensors import dtype_code, indices, packed_sparsity


class Flatbuffer:
    """A `.tflite` file in memory, to be read and changed.

    Tensors and operators have an index in their subgraph. A new tensor moves
    no other; an inserted or removed operator moves those after it.

    Example:

    >>> Flatbuffer(b"not a model")
    Traceback (most recent call last):
    ...
    ValueError: Expected the bytes of a .tflite file (identifier b'TFL3' at \
byte 4). Received: 11 bytes that start with b'not a mo'.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._model = reader.read_model(data)

    def to_bytes(self) -> bytes:
        """Returns the file without buffers and codes that nothing uses.

        Reading and writing it again changes no byte.
        """
        reader.drop_unread(self._model)
        return packed_model(self._model)

    # Read and find.

    @property
    def num_subgraphs(self) -> int:
        """The main graph and the bodies of its control flow."""
        return len(self._model.subgraphs)

    @property
    def operators(self) -> list[Operator]:
        """All operators, subgraph by subgraph, in order of execution."""
        return [
            reader.read_operator(self._model, s, o)
            for s, subgraph in enumerate(self._model.subgraphs)
            for o in range(len(subgraph.operators or ()))
        ]

    def subgraph_name(self, subgraph: int = 0) -> str:
        """The name of a subgraph; empty if it has none."""
        name = self._model.subgraphs[subgraph].name or b""
        return name.decode(errors="replace")

    def tensors(self, subgraph: int = 0) -> list[Tensor]:
        """All tensors of one subgraph, by index."""
        count = len(self._tensors(subgraph) or ())
        return [self.tensor(subgraph, index) for index in range(count)]

    def tensor(self, subgraph: int, index: int) -> Tensor:
        """Returns one tensor, with its values if they are in the file."""
        return reader.read_tensor(self._model, self._data, subgraph, index)

    def inputs(self) -> dict[str, Tensor]:
        """The model's inputs, by their names in the signature."""
        return reader.read_interface(self._model, self._data, "inputs")

    def outputs(self) -> dict[str, Tensor]:
        """The model's outputs, by name; `output_2` comes before `output_10`."""
        return reader.read_interface(self._model, self._data, "outputs")

    def interface(
        self, subgraph: int = 0
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tensor indices of a subgraph's inputs and outputs."""
        graph = self._model.subgraphs[subgraph]
        return indices(graph.inputs), indices(graph.outputs)

    def float_operators(self) -> dict[str, int]:
        """Counts, by name, the operators that compute in float32."""
        return dict(
            Counter(
                operator.name
                for operator in self.operators
                if operator.name not in ("QUANTIZE", "DEQUANTIZE")
                and any(
                    self.tensor(operator.subgraph, index).dtype == "float32"
                    for index in operator.outputs
                )
            )
        )

    def metadata(self, name: str) -> bytes | None:
        """Returns the metadata record of that name, or `None`."""
        for record in self._model.metadata or ():
            if reader.decoded(record.name) == name:
                data = self._model.buffers[record.buffer].data
                return b"" if data is None else np.asarray(data).tobytes()
        return None

    # Add and copy.

    @property
    def description(self) -> str:
        """What the file says of itself."""
        return (self._model.description or b"").decode(errors="replace")

    def describe(self, text: str) -> None:
        """Replaces the description, and removes all metadata records."""
        self._model.description, self._model.metadata = text.encode(), None

    def set_metadata(self, name: str, data: bytes) -> None:
        """Adds a metadata record, or replaces the one of the same name."""
        kept = [
            r for r in self._model.metadata or () if r.name != name.encode()
        ]
        record = schema.MetadataT()
        record.name = name.encode()
        record.buffer = self._add_buffer(np.frombuffer(data, np.uint8))
        self._model.metadata = [*kept, record]

    def copy_tensor(
        self, subgraph: int, index: int, name: str | None = None
    ) -> int:
        """Adds a copy of a tensor, and returns its index."""
        tensors = self._tensors(subgraph)
        source, copy = tensors[index], schema.TensorT()
        vars(copy).update(vars(source))
        copy.name = (source.name or b"") + b"_%d" % len(tensors)
        tensors.append(copy)
        if name is not None:
            self.rename(subgraph, len(tensors) - 1, name)
        return len(tensors) - 1

    def add_constant(
        self,
        subgraph: int,
        name: str,
        values: np.ndarray,
        scales: np.ndarray = NO_SCALES,
    ) -> int:
        """Adds a constant tensor, and returns its index."""
        tensor = schema.TensorT()
        tensor.buffer = self._add_buffer(values)
        tensors = self._tensors(subgraph)
        tensors.append(tensor)
        index = len(tensors) - 1
        self.rename(subgraph, index, name)
        self.write(subgraph, index, Constant(values, scales, 0))
        return index

    # Replace.

    def rename(self, subgraph: int, index: int, name: str) -> None:
        """Gives a tensor a name; an empty one takes no bytes."""
        self._tensors(subgraph)[index].name = name.encode() or None

    def set_shape(
        self, subgraph: int, index: int, shape: Sequence[int]
    ) -> None:
        """Gives a tensor a shape without open sizes."""
        tensor = self._tensors(subgraph)[index]
        tensor.shape = np.array(shape, np.int32)
        tensor.shapeSignature = None

    def set_scales(self, subgraph: int, index: int, scales: np.ndarray) -> None:
        """Gives a tensor scales with zero points of 0; or removes them."""
        self._tensors(subgraph)[index].quantization = (
            _quantization(scales) if scales.size else None
        )

    def set_type(
        self,
        subgraph: int,
        index: int,
        dtype: str,
        scales: np.ndarray = NO_SCALES,
        zero_point: int = 0,
    ) -> None:
        """Gives a tensor another type, and scales with one zero point."""
        self._tensors(subgraph)[index].type = dtype_code(dtype)
        self.set_scales(subgraph, index, scales)
        if scales.size:
            points: np.ndarray = np.full(scales.size, zero_point, np.int64)
            self._tensors(subgraph)[index].quantization.zeroPoint = points

    def set_interface(
        self, inputs: Mapping[int, int], outputs: Mapping[int, int]
    ) -> None:
        """Replaces inputs and outputs of the model, by old tensor index."""
        graph = self._model.subgraphs[0]
        signatures = [
            s for s in self._model.signatureDefs or () if not s.subgraphIndex
        ]
        for side, moved in (("inputs", inputs), ("outputs", outputs)):
            held = [moved.get(i, i) for i in indices(getattr(graph, side))]
            setattr(graph, side, np.array(held, np.int32))
            for signature in signatures:
                for entry in getattr(signature, side) or ():
                    index = int(entry.tensorIndex)
                    entry.tensorIndex = moved.get(index, index)

    def quantize_like(self, subgraph: int, index: int, source: int) -> None:
        """Gives a tensor the type and the scales of another one."""
        tensors = self._tensors(subgraph)
        tensors[index].type = tensors[source].type
        tensors[index].quantization = tensors[source].quantization

    def write(self, subgraph: int, index: int, constant: Constant) -> None:
        """Gives a tensor values; without new scales it keeps its own."""
        tensor = self._tensors(subgraph)[index]
        data = constant.data
        tensor.type = dtype_code(data.dtype.name)
        if constant.bit_width == 4:
            data = packing.pack(data)
            tensor.type = dtype_code("int4")
        # Buffer 0 is empty by convention.
        if tensor.buffer and self._num_uses(tensor.buffer) == 1:
            self._model.buffers[tensor.buffer].data = _as_bytes(data)
        else:
            tensor.buffer = self._add_buffer(data)
        if constant.data.shape != indices(tensor.shape):
            self.set_shape(subgraph, index, constant.data.shape)
        if constant.scales.size:
            tensor.quantization = _quantization(
                constant.scales, constant.axis, tensor.quantization
            )

    def write_sparse(
        self, subgraph: int, index: int, sparse: SparseTensor
    ) -> None:
        """Gives a tensor sparse values."""
        validate_sparse(sparse)
        tensor = self._tensors(subgraph)[index]
        tensor.buffer = self._add_buffer(sparse.values)
        tensor.sparsity = packed_sparsity(sparse)

    def replace_inputs(self, writes: Mapping[InputSite, Constant]) -> None:
        """Gives operators new constants; all others read what they read before.

        Several operators may read one tensor, and several tensors one buffer.
        A tensor is copied first if another operator still reads it.
        """
        readers = defaultdict(list)
        read = {}
        for operator in self.operators:
            for position, index in enumerate(operator.inputs):
                site = InputSite(operator.subgraph, operator.index, position)
                readers[operator.subgraph, index].append(site)
                read[site] = index
        written = defaultdict(list)
        for site in writes:
            written[site.subgraph, read[site]].append(site)
        for (subgraph, index), sites in written.items():
            targets = {}
            if len(readers[subgraph, index]) == len(sites):
                targets[writes[sites[0]].key()] = index
            for site in sites:
                constant = writes[site]
                if constant.key() not in targets:
                    targets[constant.key()] = self.copy_tensor(subgraph, index)
                target = targets[constant.key()]
                self.write(subgraph, target, constant)
                self.set_input(site, target)

    def set_input(self, site: InputSite, index: int) -> None:
        """Lets an operator read another tensor."""
        operator = self._model.subgraphs[site.subgraph].operators[site.operator]
        # A vector from the file is a read-only view of its bytes.
        operator.inputs = np.array(operator.inputs, np.int32)
        operator.inputs[site.position] = index

    def set_outputs(self, operator: Operator, outputs: Sequence[int]) -> None:
        """Lets an operator compute other tensors."""
        self._held(operator).outputs = np.array(outputs, np.int32)

    def set_option(self, operator: Operator, name: str, value: Any) -> None:
        """Sets an option of an operator; an enumeration by name."""
        write_option(self._held(operator), name, value)

    # Insert and remove.

    def insert(
        self,
        subgraph: int,
        position: int,
        name: str,
        inputs: Sequence[int],
        output: int,
        **options: Any,
    ) -> None:
        """Adds an operator in front of the one at that position.

        An output that was a constant loses its values.
        """
        self._become_computed(self._tensors(subgraph)[output])
        code = self._operator_code(name)
        operator = new_operator(name, code, inputs, output, **options)
        self._model.subgraphs[subgraph].operators.insert(position, operator)

    def remove(self, operators: Collection[Operator]) -> None:
        """Removes operators; nothing may read their outputs."""
        places = {(o.subgraph, o.index) for o in operators}
        for subgraph, index in sorted(places, reverse=True):
            del self._model.subgraphs[subgraph].operators[index]

    def _tensors(self, subgraph: int) -> Any:
        return self._model.subgraphs[subgraph].tensors

    def _held(self, operator: Operator) -> Any:
        return self._model.subgraphs[operator.subgraph].operators[
            operator.index
        ]

    def _become_computed(self, tensor: Any) -> None:
        if self._model.buffers[tensor.buffer].data is None:
            return
        if self._num_uses(tensor.buffer) == 1:
            self._model.buffers[tensor.buffer].data = None
        tensor.buffer = 0

    def _operator_code(self, name: str) -> int:
        """The index of an operator's code; a missing one is added."""
        custom = name.encode() if name == DECODE else None
        builtin = getattr(schema.BuiltinOperator, "CUSTOM" if custom else name)
        version = 1 if custom else OPERATOR_VERSIONS[name]
        for index, code in enumerate(self._model.operatorCodes):
            # A newer version knows all that an older one does.
            is_same = (builtin_code(code), code.customCode) == (builtin, custom)
            if is_same and code.version >= version:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.customCode = custom
        code.version = version
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1

    def _num_uses(self, buffer: int) -> int:
        holders = [
            *(t for s in self._model.subgraphs for t in s.tensors or ()),
            *(self._model.metadata or ()),
        ]
        return sum(holder.buffer == buffer for holder in holders)

    def _add_buffer(self, values: np.ndarray) -> int:
        buffer = schema.BufferT()
        buffer.data = _as_bytes(values)
        self._model.buffers.append(buffer)
        return len(self._model.buffers) - 1


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return np.frombuffer(values.tobytes(), np.uint8)


def _quantization(scales: np.ndarray, axis: int = 0, held: Any = None) -> Any:
    """New scales with zero points of 0; all other parameters are kept."""
    quantization = schema.QuantizationParametersT()
    vars(quantization).update(vars(held or quantization))
    quantization.scale = scales.astype(np.float32)
    quantization.zeroPoint = np.zeros(scales.size, np.int64)
    quantization.quantizedDimension = axis
    return quantization
