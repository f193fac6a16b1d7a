"""Changes `.tflite` files: operators, tensors, buffers, metadata.

With its neighbours `flatbuffer_*.py`, the only file that touches the TFLite
schema. It decides nothing: which tensors to rewrite, and to
what, is the business of `exact_weights.py`.
"""

import copy
from collections import defaultdict
from collections.abc import Collection, Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.format.names import short_names
from tflite_export.format.operators import write_option
from tflite_export.format.parts import FlatbufferParts, set_shape
from tflite_export.format.records import Constant, InputSite, Operator
from tflite_export.format.sparse import SparseTensor, validate_sparse
from tflite_export.format.tensors import indices, packed_sparsity


class Flatbuffer(FlatbufferParts):
    """A `.tflite` file in memory, to be read and changed.

    Args:
        data: The bytes of the file.

    Raises:
        ValueError: If the bytes are not a TFLite file.
    """

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
            tensors = subgraph.tensors or ()
            names = short_names([t.name or b"" for t in tensors], kept)
            for tensor, name in zip(tensors, names, strict=True):
                tensor.name = name

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
        stored.buffer = self._add_buffer(sparse.values)
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
        set_shape(tensors[padded], grown)
        amounts = np.array(margins, np.int32)
        constant = self._add_constant(subgraph, b"margins", amounts)
        held = self._model.subgraphs[subgraph].operators[operator.index]
        write_option(held, "padding", "VALID")
        site = InputSite(subgraph, operator.index, 0)
        self._set_read_index(site, padded)
        inputs = [source, constant]
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
            tensor = self._model.subgraphs[subgraph].tensors[index]
            tensor.buffer = self._add_buffer(array)
        self.remove([o for o in self.operators if o.name == name])

    def compute_on_integers(
        self,
        operator: Operator,
        dequantize: Operator,
        position: int,
        quantizes: Collection[Operator],
    ) -> None:
        """Lets an operator take integers without the conversions around it.

        Args:
            operator: An operator that only moves values.
            dequantize: Makes the floats that it reads. It stays if others read
                them too.
            position: Which of its inputs they are.
            quantizes: Make the same integers of what it computes, one for each
                output that is read.
        """
        graph = self._model.subgraphs[operator.subgraph]
        source = graph.tensors[dequantize.inputs[0]]
        restored = {o.inputs[0]: o.outputs[0] for o in quantizes}
        outputs = [restored.get(index, index) for index in operator.outputs]
        for index in set(outputs) - set(restored.values()):
            graph.tensors[index].type = source.type
            graph.tensors[index].quantization = source.quantization
        held = graph.operators[operator.index]
        held.outputs = np.array(outputs, np.int32)
        site = InputSite(operator.subgraph, operator.index, position)
        self._set_read_index(site, dequantize.inputs[0])
        floats = dequantize.outputs[0]
        is_read = any(floats in o.inputs for o in graph.operators)
        self.remove([*quantizes, *([] if is_read else [dequantize])])

    def keep_scale(self, operator: Operator) -> None:
        """Gives the outputs of an operator the scale of its first input."""
        tensors = self._model.subgraphs[operator.subgraph].tensors
        for output in operator.outputs:
            tensors[output].quantization = copy.deepcopy(
                tensors[operator.inputs[0]].quantization
            )

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

    def replace_by_convolution(self, operator: Operator) -> None:
        """Writes a FULLY_CONNECTED as a CONV_2D of 1x1 between two RESHAPEs.

        The operators behind it move by two places.

        Args:
            operator: A FULLY_CONNECTED. Its kernel must be read by others of
                its kind only, which become convolutions too.
        """
        subgraph, (source, kernel, *biases) = operator.subgraph, operator.inputs
        graph = self._model.subgraphs[subgraph]
        num_outputs, *_, num_inputs = map(int, graph.tensors[kernel].shape)
        rows = int(np.prod(graph.tensors[source].shape)) // num_inputs
        wide = self._copy_tensor(subgraph, source)
        narrow = self._copy_tensor(subgraph, operator.outputs[0])
        for index, shape in (
            (wide, (1, rows, 1, num_inputs)),
            (kernel, (num_outputs, 1, 1, num_inputs)),
            (narrow, (1, rows, 1, num_outputs)),
        ):
            set_shape(graph.tensors[index], shape)
        given = [index for index in biases if index >= 0]
        # Unlike FULLY_CONNECTED, a convolution of integers must have one.
        bias = given[0] if given else self._zero_bias(subgraph, wide, kernel)
        activation = operator.options["fusedActivationFunction"]
        self.remove([operator])
        at = operator.index
        self._insert_reshape(subgraph, at, source, wide)
        self._insert(
            subgraph,
            at + 1,
            "CONV_2D",
            [wide, kernel, bias],
            narrow,
            padding="VALID",
            strideH=1,
            strideW=1,
            fusedActivationFunction=activation,
        )
        self._insert_reshape(subgraph, at + 2, narrow, operator.outputs[0])

    def _zero_bias(self, subgraph: int, source: int, kernel: int) -> int:
        """Adds the bias of a kernel that has none, with the scale of sums."""
        tensors = self._model.subgraphs[subgraph].tensors
        step = np.float32(tensors[source].quantization.scale[0])
        scales = step * np.array(tensors[kernel].quantization.scale, np.float32)
        zeros = np.zeros(tensors[kernel].shape[0], np.int32)
        bias = self._add_constant(subgraph, b"bias_%d" % kernel, zeros)
        self._write_tensor(subgraph, bias, Constant(zeros, scales, 0))
        return bias

    def _insert_reshape(
        self, subgraph: int, position: int, source: int, result: int
    ) -> None:
        shape = self._model.subgraphs[subgraph].tensors[result].shape
        self._insert(
            subgraph, position, "RESHAPE", [source], result, newShape=shape
        )
