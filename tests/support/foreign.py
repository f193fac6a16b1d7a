"""Small `.tflite` files with the features of files that other tools wrote.

They are written from the objects of the schema: no converter gives most of the
features. `FILES` has a builder for each one, by name.
"""

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.format.sparse import SparseTensor, encode_sparse
from tflite_export.format.tensors import packed_sparsity

_RNG = np.random.default_rng(0)
FLOATS = _RNG.normal(size=(4, 8)).astype(np.float32)
CODES = _RNG.integers(-7, 8, (4, 8)).astype(np.int8)
SPARSE = np.where(_RNG.random((4, 16)) < 0.8, 0, 1.5).astype(np.float32)
# Types of one size in bytes that NumPy or this package can read.
NUMBERS = (
    *("float32", "float16", "float64", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "bool"),
    *("complex64", "complex128"),
)


class Graph:
    """One subgraph, tensor by tensor and operator by operator."""

    def __init__(self, file: "File", held: Any) -> None:
        self._file, self.held = file, held

    def tensor(
        self,
        name: str,
        dtype: str = "float32",
        shape: Sequence[int] = (1, 8),
        **fields: Any,
    ) -> int:
        """Adds a tensor without values; `fields` are those of the schema."""
        tensor = schema.TensorT()
        tensor.name, tensor.buffer = name.encode(), 0
        tensor.shape = np.array(shape, np.int32)
        tensor.type = getattr(schema.TensorType, dtype.upper())
        for field, value in fields.items():
            setattr(tensor, field, value)
        self.held.tensors.append(tensor)
        return len(self.held.tensors) - 1

    def constant(
        self, name: str, values: np.ndarray, dtype: str = "", **fields: Any
    ) -> int:
        """Adds a tensor with values, whose bytes are those of the array."""
        shape = fields.pop("shape", values.shape)
        fields["buffer"] = self._file.buffer(values)
        return self.tensor(name, dtype or values.dtype.name, shape, **fields)

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: str = "",
        version: int = 1,
        **values: Any,
    ) -> Any:
        """Adds an operator; a name unknown to the schema is a custom one."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self._file.code(name, version)
        operator.inputs = np.array(inputs, np.int32)
        operator.outputs = np.array(outputs, np.int32)
        if options:
            kind = f"{options}Options"
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = getattr(schema, f"{kind}T")()
            for field, value in values.items():
                setattr(operator.builtinOptions, field, value)
        self.held.operators.append(operator)
        return operator

    def ends(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Names the inputs and outputs."""
        self.held.inputs = np.array(inputs, np.int32)
        self.held.outputs = np.array(outputs, np.int32)


class File:
    """A file of one or more subgraphs."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes, self.model.subgraphs = [], []

    def graph(self) -> Graph:
        """Adds a subgraph."""
        held = schema.SubGraphT()
        held.tensors, held.operators = [], []
        self.model.subgraphs.append(held)
        return Graph(self, held)

    def main(self) -> Graph:
        """The first subgraph, to add to it."""
        return Graph(self, self.model.subgraphs[0])

    def buffer(self, values: np.ndarray) -> int:
        """Adds the bytes of an array."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def code(self, name: str, version: int) -> int:
        """Adds an operator code."""
        code = schema.OperatorCodeT()
        builtin = getattr(schema.BuiltinOperator, name, None)
        if builtin is None:
            builtin, code.customCode = schema.BuiltinOperator.CUSTOM, name
        code.builtinCode, code.version = builtin, version
        code.deprecatedBuiltinCode = min(builtin, 127)
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def to_bytes(self) -> bytes:
        """The file, as flatbuffers' own builder writes it."""
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def scales(
    values: Sequence[float], points: Sequence[int], axis: int = 0
) -> Any:
    """Scales and zero points of a tensor."""
    held = schema.QuantizationParametersT()
    held.scale = np.array(values, np.float32)
    held.zeroPoint = np.array(points, np.int64)
    held.quantizedDimension = axis
    return held


FILES: dict[str, Callable[[], bytes]] = {}


def _file(build: Callable[[], File | bytes]) -> Callable[[], bytes]:
    def data() -> bytes:
        built = build()
        return built if isinstance(built, bytes) else built.to_bytes()

    FILES[build.__name__.strip("_")] = data
    return data


def _dense(batch: int = 1, weights: np.ndarray = FLOATS) -> File:
    """A FULLY_CONNECTED in float."""
    file = File()
    graph = file.graph()
    x = graph.tensor("x", shape=(batch, weights.shape[1]))
    w = graph.constant("w", weights)
    y = graph.tensor("y", shape=(batch, weights.shape[0]))
    graph.operator("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnected")
    graph.ends([x], [y])
    return file


@_file
def empty_buffer_0() -> File:
    """As the Edge TPU's compiler and converters of PyTorch write it."""
    file = _dense()
    file.model.buffers[0].data = np.zeros(0, np.uint8)
    return file


@_file
def empty_vector_for_each_tensor() -> File:
    """As the first converters wrote it: a buffer of its own, of no bytes."""
    file = _dense()
    for tensor in file.model.subgraphs[0].tensors:
        if not tensor.buffer:
            tensor.buffer = file.buffer(np.zeros(0, np.uint8))
    return file


@_file
def output_of_size_0() -> File:
    """As `tf.signal.frame` leaves it."""
    file = File()
    graph = file.graph()
    x = graph.tensor("x")
    sizes = graph.constant("sizes", np.array([5, 3, 0], np.int32))
    axis = graph.constant("axis", np.array(1, np.int32))
    parts = [
        graph.tensor(f"part_{n}", shape=(1, n), buffer=0) for n in (5, 3, 0)
    ]
    graph.operator("SPLIT_V", [x, sizes, axis], parts, "SplitV", numSplits=3)
    graph.ends([x], parts)
    return file


@_file
def size_0_is_read() -> File:
    """A tensor of size 0 that nothing computes, joined to another."""
    file = File()
    graph = file.graph()
    x = graph.tensor("x")
    nothing = graph.tensor("nothing", shape=(1, 0))
    y = graph.tensor("y")
    graph.operator("CONCATENATION", [x, nothing], [y], "Concatenation", axis=1)
    graph.ends([x], [y])
    return file


@_file
def zero_point_of_uint8() -> File:
    """As TensorFlow 1 quantized: real 0 is the code 7."""
    file = File()
    graph = file.graph()
    x = graph.tensor("x", "uint8", quantization=scales([0.5], [128]))
    codes = np.where(np.arange(32) % 2, 7, 100).astype(np.uint8)
    w = graph.constant(
        "w", codes.reshape(4, 8), quantization=scales([0.1], [7])
    )
    y = graph.tensor("y", "uint8", (1, 4), quantization=scales([9.0], [128]))
    graph.operator("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnected")
    graph.ends([x], [y])
    return file


@_file
def zero_point_of_a_constant() -> File:
    """An int8 state whose zeros are the code -128."""
    file = File()
    graph = file.graph()
    x = graph.tensor("x", "int8", quantization=scales([0.5], [-128]))
    state = graph.constant(
        "state",
        np.array([[-128] * 6 + [0, 5]], np.int8),
        quantization=scales([0.5], [-128]),
    )
    y = graph.tensor("y", "int8", quantization=scales([1.0], [-128]))
    graph.operator("ADD", [x, state], [y], "Add", version=2)
    graph.ends([x], [y])
    return file


@_file
def zero_point_of_each_channel() -> File:
    """Each row of the weights has its own code for 0."""
    file = File()
    graph = file.graph()
    w = graph.constant(
        "w",
        np.array([[1, 1, 1, 0], [2, 2, 2, 0], [3, 0, 1, 1]], np.int8),
        quantization=scales([0.1, 0.2, 0.3], [1, 2, 3], axis=0),
    )
    x = graph.tensor("x", shape=(1, 4))
    real = graph.tensor("real", shape=(3, 4))
    y = graph.tensor("y", shape=(1, 3))
    graph.operator("DEQUANTIZE", [w], [real], "Dequantize", version=5)
    graph.operator("FULLY_CONNECTED", [x, real, -1], [y], "FullyConnected")
    graph.ends([x], [y])
    return file


@_file
def zero_point_of_a_sparse_tensor() -> File:
    """The stored codes have a zero point, the places between are code 0."""
    codes = np.array([[0, 3, 0, 5], [0, 0, 0, 3], [0, 7, 0, 0]], np.int8)
    file = _densified(codes, encode_sparse(codes))
    file.model.subgraphs[0].tensors[1].quantization = scales([0.1], [3])
    return file


@_file
def every_type() -> File:
    """A constant of each type of numbers; none of an operator."""
    file = _dense()
    graph = file.main()
    for dtype in NUMBERS:
        values = np.array([[0, 1, 1], [2, 0, 3]]).astype(dtype)
        graph.constant(f"of_{dtype}", values)
    return file


@_file
def types_without_numpy() -> File:
    """Types that NumPy does not have, and some without numbers."""
    file = _dense()
    graph = file.main()
    text = np.frombuffer(
        np.array([1, 12, 15], np.int32).tobytes() + b"abc", np.uint8
    )
    graph.constant("text", text, "string", shape=(1,))
    halves = (FLOATS.view(np.uint32) >> 16).astype(np.uint16)
    graph.constant("halves", halves, "bfloat16")
    packed = np.arange(16, dtype=np.uint8)
    graph.constant("nibbles", packed, "int4", shape=(4, 8))
    graph.constant("unsigned_nibbles", packed, "uint4", shape=(4, 8))
    graph.constant("quarters", packed, "int2", shape=(8, 8))
    graph.constant("eighths", packed, "float8_e4m3fn", shape=(4, 4))
    return file


@_file
def half_precision() -> File:
    """Weights in float16, as the converter's option writes them."""
    file = File()
    graph = file.graph()
    x = graph.tensor("x")
    half = graph.constant("half", FLOATS.astype(np.float16))
    w = graph.tensor("w", shape=(4, 8))
    y = graph.tensor("y", shape=(1, 4))
    graph.operator("DEQUANTIZE", [half], [w], "Dequantize", version=3)
    graph.operator("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnected")
    graph.ends([x], [y])
    return file


@_file
def int16_activations() -> File:
    """Activations of 16 bits and weights of 8, with a bias of 64."""
    file = File()
    graph = file.graph()
    x = graph.tensor("x", "int16", quantization=scales([1e-4], [0]))
    w = graph.constant("w", CODES, quantization=scales([0.1], [0]))
    b = graph.constant(
        "b", np.arange(4, dtype=np.int64), quantization=scales([1e-5], [0])
    )
    y = graph.tensor("y", "int16", (1, 4), quantization=scales([1e-3], [0]))
    graph.operator(
        "FULLY_CONNECTED", [x, w, b], [y], "FullyConnected", version=4
    )
    graph.ends([x], [y])
    return file


@_file
def int4_weights() -> File:
    """Two codes a byte."""
    file = File()
    graph = file.graph()
    x = graph.tensor("x", "int8", quantization=scales([0.5], [0]))
    packed = np.arange(100, 116, dtype=np.uint8)
    quantization = scales([0.1], [0])
    w = graph.constant(
        "w", packed, "int4", shape=(4, 8), quantization=quantization
    )
    y = graph.tensor("y", "int8", (1, 4), quantization=scales([1.0], [0]))
    graph.operator(
        "FULLY_CONNECTED", [x, w, -1], [y], "FullyConnected", version=7
    )
    graph.ends([x], [y])
    return file


def _densified(values: np.ndarray, sparse: SparseTensor) -> File:
    """A sparse constant that a DENSIFY makes dense, and a reader of that."""
    file = File()
    graph = file.graph()
    dtype = values.dtype.name
    dense = graph.tensor("dense", dtype, values.shape)
    stored = graph.constant(
        "stored",
        sparse.values,
        dtype,
        shape=values.shape,
        sparsity=packed_sparsity(sparse),
    )
    graph.operator("DENSIFY", [stored], [dense], "Densify")
    x = graph.tensor("x", shape=(1, values.shape[1]))
    y = graph.tensor("y", shape=(1, values.shape[0]))
    weights = dense
    if dtype != "float32":
        weights = graph.tensor("w", shape=values.shape)
        graph.held.tensors[dense].quantization = scales([0.1], [0])
        version = 3 if dtype == "float16" else 2
        graph.operator("DEQUANTIZE", [dense], [weights], "Dequantize", version)
    graph.operator("FULLY_CONNECTED", [x, weights, -1], [y], "FullyConnected")
    graph.ends([x], [y])
    return file


@_file
def sparse_floats() -> File:
    """As production networks for phones hold them."""
    return _densified(SPARSE, encode_sparse(SPARSE))


@_file
def sparse_halves() -> File:
    """Sparse, and in float16: two operators unpack it."""
    half = SPARSE.astype(np.float16)
    return _densified(half, encode_sparse(half))


@_file
def scalar_input() -> File:
    """A number in, a number out."""
    file = File()
    graph = file.graph()
    x, y = graph.tensor("x", shape=()), graph.tensor("y", shape=())
    one = graph.constant("one", np.array(1, np.float32))
    graph.operator("ADD", [x, one], [y], "Add")
    graph.ends([x], [y])
    return file


@_file
def rank_1_input() -> File:
    """A waveform without a batch, as audio networks take it."""
    file = File()
    graph = file.graph()
    x, y = graph.tensor("x", shape=(8,)), graph.tensor("y", shape=(8,))
    window = graph.constant("window", FLOATS[0])
    graph.operator("MUL", [x, window], [y], "Mul")
    graph.ends([x], [y])
    return file


@_file
def fixed_batch() -> File:
    """A batch of 4."""
    return _dense(batch=4)


@_file
def batch_and_scalar() -> File:
    """An image and a number."""
    file = File()
    graph = file.graph()
    x, gain = graph.tensor("x"), graph.tensor("gain", shape=())
    y = graph.tensor("y")
    graph.operator("MUL", [x, gain], [y], "Mul")
    graph.ends([x, gain], [y])
    return file


@_file
def integer_batch_on_a_microcontroller() -> File:
    """A batch of 2 of int8, and an output of rank 1."""
    file = File()
    graph = file.graph()
    x = graph.tensor("x", "int8", (2, 4), quantization=scales([0.5], [1]))
    y = graph.tensor("y", "int8", (8,), quantization=scales([0.5], [1]))
    shape = graph.constant("shape", np.array([8], np.int32))
    graph.operator("RESHAPE", [x, shape], [y], "Reshape")
    graph.ends([x], [y])
    return file


@_file
def no_input() -> File:
    """A generator of constants."""
    file = File()
    graph = file.graph()
    w = graph.constant("w", FLOATS)
    y = graph.tensor("y", shape=FLOATS.shape)
    graph.operator("ABS", [w], [y])
    graph.ends([], [y])
    return file


@_file
def open_size() -> File:
    """An image of any size: the shape in the file is a placeholder."""
    file = File()
    graph = file.graph()
    signature = np.array([1, -1, -1, 3], np.int32)
    x = graph.tensor("x", shape=(1, 1, 1, 3), shapeSignature=signature)
    w = graph.constant("w", np.ones((2, 3, 3, 3), np.float32))
    b = graph.constant("b", np.zeros(2, np.float32))
    y = graph.tensor("y", shape=(1, 1, 1, 2), shapeSignature=signature)
    graph.operator(
        "CONV_2D",
        [x, w, b],
        [y],
        "Conv2D",
        padding=schema.Padding.VALID,
        strideH=1,
        strideW=1,
    )
    graph.ends([x], [y])
    return file


@_file
def output_of_any_size() -> File:
    """The number of results depends on the values."""
    file = File()
    graph = file.graph()
    x = graph.tensor("x", "bool", (8,))
    y = graph.tensor("y", "int64", (1, 1))
    graph.operator("WHERE", [x], [y])
    graph.ends([x], [y])
    return file


@_file
def constant_output() -> File:
    """An output that is in the file, and an input that nothing reads."""
    file = _dense()
    graph = file.model.subgraphs[0]
    graph.outputs = np.array([2, 1], np.int32)
    return file


@_file
def tokens() -> File:
    """Indices into a table."""
    file = File()
    graph = file.graph()
    x = graph.tensor("x", "int32", (1, 3))
    table = graph.constant("table", FLOATS)
    y = graph.tensor("y", shape=(1, 3, 8))
    graph.operator("GATHER", [table, x], [y], "Gather")
    graph.ends([x], [y])
    return file


@_file
def variable_state() -> File:
    """A state that lives from run to run."""
    file = File()
    graph = file.graph()
    x = graph.tensor("x", shape=(1, 3))
    feature = graph.constant("feature", FLOATS[:, :3])
    time = graph.constant("time", FLOATS[:, :2])
    state = graph.tensor("state", shape=(1, 8), isVariable=True)
    y = graph.tensor("y", shape=(1, 4))
    graph.operator("SVDF", [x, feature, time, -1, state], [y], "SVDF", rank=1)
    graph.ends([x], [y])
    return file


@_file
def resource_variables() -> File:
    """A graph that fills a variable once, as streaming networks have it."""
    file = File()
    main, once = file.graph(), file.graph()
    options = {"container": b"", "sharedName": b"held"}
    for graph in (main, once):
        handle = graph.tensor("handle", "resource", ())
        graph.operator("VAR_HANDLE", [], [handle], "VarHandle", **options)
    start = once.constant("start", FLOATS[:1])
    once.operator("ASSIGN_VARIABLE", [0, start], [], "AssignVariable")
    x, held = main.tensor("x"), main.tensor("held")
    y = main.tensor("y")
    main.operator("CALL_ONCE", [], [], "CallOnce", initSubgraphIndex=1)
    main.operator("READ_VARIABLE", [0], [held], "ReadVariable")
    main.operator("ADD", [x, held], [y], "Add")
    main.operator("ASSIGN_VARIABLE", [0, y], [], "AssignVariable")
    main.ends([x], [y])
    return file


@_file
def two_branches() -> File:
    """An IF: each branch is a subgraph with constants of its own."""
    file = File()
    main, first, second = (file.graph() for _ in range(3))
    for number, graph in enumerate((first, second)):
        x, y = graph.tensor("x"), graph.tensor("y")
        c = graph.constant("c", FLOATS[number : number + 1])
        graph.operator("ADD", [x, c], [y], "Add")
        graph.ends([x], [y])
    choice = main.tensor("choice", "bool", (1,))
    x, y = main.tensor("x"), main.tensor("y")
    options = {"thenSubgraphIndex": 1, "elseSubgraphIndex": 2}
    main.operator("IF", [choice, x], [y], "If", **options)
    main.ends([choice, x], [y])
    return file


@_file
def custom_operator() -> File:
    """An operator of the maker's own, which LiteRT does not have."""
    file = _dense()
    graph = file.main()
    z = graph.tensor("z", shape=(1, 4))
    graph.operator("MakersOwn", [2], [z])
    graph.ends([0], [z])
    return file


@_file
def compiled_for_the_edge_tpu() -> File:
    """Everything is in the data of one custom operator."""
    file = File()
    file.model.buffers[0].data = np.zeros(0, np.uint8)
    graph = file.graph()
    quantization = scales([0.5], [128])
    x = graph.tensor("x", "uint8", quantization=quantization)
    y = graph.tensor("y", "uint8", quantization=quantization)
    operator = graph.operator("edgetpu-custom-op", [x], [y])
    operator.customOptions = np.arange(5000, dtype=np.int64).astype(np.uint8)
    graph.ends([x], [y])
    return file


@_file
def strings() -> File:
    """Text in, numbers out, as tokenizers have it."""
    file = File()
    graph = file.graph()
    x = graph.tensor("x", "string", (1,))
    y = graph.tensor("y", "string", (1, 1))
    shape = graph.constant("shape", np.array([1, 1], np.int32))
    graph.operator("RESHAPE", [x, shape], [y], "Reshape")
    graph.ends([x], [y])
    return file


@_file
def without_names() -> File:
    """Names are optional, and so is the shape of a scalar."""
    file = _dense()
    for tensor in file.model.subgraphs[0].tensors:
        tensor.name = None
    return file


@_file
def old_operator_codes() -> File:
    """Written before there were 127 operators."""
    file = _dense()
    file.model.operatorCodes[0].builtinCode = 0
    return file


@_file
def shared_buffer() -> File:
    """Two tensors of one constant."""
    file = _dense()
    graph = file.main()
    graph.tensor("again", shape=(8, 4), buffer=graph.held.tensors[1].buffer)
    return file


@_file
def appended_zip() -> bytes:
    """Labels behind the file, as TFLite's metadata writer puts them."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as held:
        held.writestr("labels.txt", "cat\ndog\n")
    return _dense().to_bytes() + archive.getvalue()


@_file
def constants_behind_the_tables() -> bytes:
    """As files above 2 GB hold them."""
    file = _dense()
    buffer = file.model.buffers[1]
    buffer.data, buffer.offset, buffer.size = None, 2**20, FLOATS.nbytes
    length = len(file.to_bytes())
    buffer.offset = -(-length // 16) * 16
    data = file.to_bytes()
    return data.ljust(buffer.offset, b"\0") + FLOATS.tobytes()
