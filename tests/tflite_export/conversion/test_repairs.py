"""What the converter leaves wrong in its files, in some runs or in all."""

import flatbuffers
import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from keras import layers

import codeq_keras
import tflite_export
from tflite_export.conversion.repairs import repaired_file
from tflite_export.runtime.interpreter import run

SCALE = 0.5


def _tensor(shape, dtype, *, buffer=0, scale=None):
    tensor = schema.TensorT()
    tensor.shape = np.array(shape, np.int32)
    tensor.type, tensor.buffer = getattr(schema.TensorType, dtype), buffer
    tensor.name = b"tensor"
    if scale is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.array([scale], np.float32)
        tensor.quantization.zeroPoint = np.array([-3], np.int64)
    return tensor


def _operator(code, options, inputs, outputs):
    operator = schema.OperatorT()
    operator.opcodeIndex = code
    operator.inputs = np.array(inputs, np.int32)
    operator.outputs = np.array(outputs, np.int32)
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
    operator.builtinOptions = getattr(schema, options + "T")()
    return operator


def _code(name, version):
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode, code.version = code.builtinCode, version
    return code


def _file(*, output_scale=SCALE):
    """int8 -> float -> two halves, of which one is read -> int8."""
    graph = schema.SubGraphT()
    graph.tensors = [
        _tensor((1, 4), "INT8", scale=SCALE),
        _tensor((1, 4), "FLOAT32"),
        _tensor((), "INT32", buffer=1),
        _tensor((1, 2), "FLOAT32"),
        _tensor((1, 2), "FLOAT32"),
        _tensor((1, 2), "INT8", scale=output_scale),
    ]
    graph.inputs = np.array([0], np.int32)
    graph.outputs = np.array([5], np.int32)
    split = _operator(1, "SplitOptions", [2, 1], [3, 4])
    split.builtinOptions.numSplits = 2
    graph.operators = [
        _operator(0, "DequantizeOptions", [0], [1]),
        split,
        _operator(2, "QuantizeOptions", [4], [5]),
    ]
    axis = schema.BufferT()
    axis.data = np.frombuffer(np.int32(1).tobytes(), np.uint8)
    model = schema.ModelT()
    model.version = 3
    model.operatorCodes = [
        _code("DEQUANTIZE", 2),
        _code("SPLIT", 2),
        _code("QUANTIZE", 1),
    ]
    model.subgraphs, model.buffers = [graph], [schema.BufferT(), axis]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_split_without_conversions_computes_the_same():
    data = _file()
    file = repaired_file(data)
    codes = np.array([[-128, 5, 7, 127]], np.int8)

    assert [o.name for o in file.operators] == ["SPLIT"]
    expected, actual = (run(d, {0: codes}) for d in (data, file.to_bytes()))
    np.testing.assert_array_equal(expected[5], [[7, 127]])
    np.testing.assert_array_equal(actual[5], expected[5])


def test_split_that_is_requantized_stays():
    file = repaired_file(_file(output_scale=SCALE / 2))

    assert len(file.operators) == 3


def test_reversed_channels_keep_their_scale(tmp_path):
    # As in front of networks for BGR; the converter's own file is wrong by the
    # factor of the rescaling.
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = keras.ops.flip(image, axis=-1)
    x = layers.Rescaling(127.5, offset=[23.6, 10.7, 3.8])(x)
    x = layers.Conv2D(4, 3, activation="relu")(x)
    outputs = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    model = codeq_keras.quantize_model(keras.Model(image, outputs))
    samples = np.random.default_rng(0).uniform(-1, 1, (32, 8, 8, 3))

    result = tflite_export.export(
        model, tmp_path / "model.tflite", representative_dataset=samples
    )

    # A step of each of four roundings, at most half of which adds up.
    assert result.verification.max_output_lsb < 3
