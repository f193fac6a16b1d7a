"""Adds, copies and removes single parts of a `.tflite` file.

What every change in `flatbuffer.py` is made of.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.format import packing
from tflite_export.format.consistency import builtin_code
from tflite_export.format.operators import OPERATOR_VERSIONS, new_operator
from tflite_export.format.reader import FlatbufferReader
from tflite_export.format.records import Constant, InputSite, Operator


class FlatbufferParts(FlatbufferReader):
    """A `.tflite` file in memory, with the steps that changes are made of.

    Args:
        data: The bytes of the file.
    """

    def remove(self, operators: Collection[Operator]) -> None:
        """Removes operators; what they computed must not be read.

        Args:
            operators: The operators, as they are in the file now.
        """
        places = {(o.subgraph, o.index) for o in operators}
        for subgraph, index in sorted(places, reverse=True):
            del self._model.subgraphs[subgraph].operators[index]

    def _insert(
        self,
        subgraph: int,
        position: int,
        name: str,
        inputs: list[int],
        output: int,
        **settings: Any,
    ) -> None:
        """Adds an operator in front of the one at that position."""
        code = self._operator_code(name)
        operator = new_operator(name, code, inputs, output, **settings)
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
        data = constant.data
        if constant.bit_width == 4:
            data = packing.pack(data, bit_width=4)
            tensor.type = schema.TensorType.INT4
        if self._num_uses(tensor.buffer) == 1:
            self._model.buffers[tensor.buffer].data = _as_bytes(data)
        else:
            tensor.buffer = self._add_buffer(data)
        if constant.data.shape != tuple(tensor.shape):
            set_shape(tensor, constant.data.shape)
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

    def _add_constant(
        self, subgraph: int, name: bytes, values: np.ndarray
    ) -> int:
        """Adds a tensor of int32 numbers."""
        tensor = schema.TensorT()
        tensor.name, tensor.type = name, schema.TensorType.INT32
        set_shape(tensor, values.shape)
        tensor.buffer = self._add_buffer(values)
        tensors = self._model.subgraphs[subgraph].tensors
        tensors.append(tensor)
        return len(tensors) - 1

    def _add_buffer(self, values: np.ndarray) -> int:
        buffer = schema.BufferT()
        buffer.data = _as_bytes(values)
        self._model.buffers.append(buffer)
        return len(self._model.buffers) - 1


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return np.frombuffer(values.tobytes(), np.uint8)


def set_shape(tensor: schema.TensorT, shape: Sequence[int]) -> None:
    """Gives a tensor a shape without open sizes."""
    tensor.shape = np.array(shape, np.int32)
    tensor.shapeSignature = None
