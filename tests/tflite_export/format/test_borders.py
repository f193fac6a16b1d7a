"""Files of every type at the borders hold the codes, and compute the same."""

import keras
import numpy as np
import pytest
from keras import layers

import codeq_keras
import tflite_export
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter


@pytest.fixture(scope="module")
def two_by_two():
    """A quantized model of an image and tokens, with two outputs."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    tokens = keras.Input((4,), dtype="int32", name="tokens")
    x = layers.Conv2D(4, 3, activation="relu")(image)
    y = layers.GlobalAveragePooling1D()(layers.Embedding(9, 4)(tokens))
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), y])
    outputs = {"a": layers.Dense(3)(x), "b": layers.Dense(2)(x)}
    model = keras.Model([image, tokens], outputs)
    rng = np.random.default_rng(0)
    samples = [
        rng.uniform(size=(32, 8, 8, 3)).astype("float32"),
        rng.integers(0, 9, (32, 4)).astype("int32"),
    ]
    return codeq_keras.quantize_model(model), samples


@pytest.fixture(scope="module")
def files(two_by_two, tmp_path_factory):
    folder = tmp_path_factory.mktemp("borders")
    model, samples = two_by_two
    return {
        io_dtype: tflite_export.export(
            model,
            folder / f"{io_dtype}.tflite",
            io_dtype=io_dtype,
            representative_dataset=samples,
        )
        for io_dtype in ("int8", "uint8", "float32")
    }


def _interface(result):
    file = Flatbuffer(result.path.read_bytes())
    return file, file.inputs(), file.outputs()


@pytest.mark.parametrize("io_dtype", ["int8", "uint8", "float32"])
def test_borders_have_the_type_and_tokens_stay_integers(files, io_dtype):
    result = files[io_dtype]
    _, inputs, outputs = _interface(result)

    assert result.verification.codes_equal
    assert result.verification.max_output_lsb <= 2
    assert not any(o.relative_to_range for o in result.verification.outputs)
    assert inputs["image"].dtype == io_dtype
    assert inputs["tokens"].dtype == "int32"
    assert {t.dtype for t in outputs.values()} == {io_dtype}
    assert {t.name for t in inputs.values()} == {
        t.name for t in _interface(files["int8"])[1].values()
    }


def test_uint8_codes_are_those_of_int8_plus_128(files, two_by_two):
    _, samples = two_by_two
    names = ["image", "tokens"]
    codes = {}
    for io_dtype in ("int8", "uint8"):
        file, inputs, outputs = _interface(files[io_dtype])
        data = files[io_dtype].path.read_bytes()
        given = interpreter.quantized_inputs(file, samples, names)
        run = interpreter.run(data, given)
        codes[io_dtype] = (
            given[inputs["image"].index].astype(int),
            *(run[t.index].astype(int) for t in outputs.values()),
        )
    int8 = _interface(files["int8"])[1]["image"]
    uint8 = _interface(files["uint8"])[1]["image"]

    assert uint8.zero_points[0] == int8.zero_points[0] + 128
    assert uint8.scales == int8.scales
    for signed, unsigned in zip(codes["int8"], codes["uint8"], strict=True):
        np.testing.assert_array_equal(unsigned, signed + 128)


def test_float_borders_give_the_outputs_of_int8(files, two_by_two):
    _, samples = two_by_two
    expected = tflite_export.predict(files["int8"].path, samples)
    actual = tflite_export.predict(files["float32"].path, samples)

    for name, tensor in _interface(files["int8"])[2].items():
        steps = np.abs(actual[name] - expected[name]) / tensor.scales[0]
        assert np.mean(steps < 1e-3) > 0.95  # Halves may round otherwise.
        assert steps.max() < 1.001


@pytest.mark.parametrize("io_dtype", ["uint8", "float32"])
def test_every_command_reads_such_files(files, two_by_two, io_dtype):
    model, samples = two_by_two
    result = files[io_dtype]

    assert tflite_export.verify(result.path, model, samples).codes_equal
    assert tflite_export.verify(result.path, model).codes_equal
    assert tflite_export.check(result.path).is_ok
    inspection = tflite_export.inspect(result.path)
    assert sum(inspection.account.by_kind.values()) == result.size_bytes
    assert any(f"are {io_dtype}" in note for note in result.notes)
    assert any(
        "'tokens' stays int32"
        in n.replace("serving_default_", "").replace(":0", "")
        for n in result.notes
    )


def test_an_input_that_is_an_output_keeps_both_borders(tmp_path):
    image = keras.Input((4,), name="image")
    model = keras.Model(image, [layers.Dense(3)(image), image])
    samples = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    result = tflite_export.export(
        codeq_keras.quantize_model(model),
        tmp_path / "model.tflite",
        io_dtype="float32",
        representative_dataset=samples,
    )
    same = tflite_export.predict(result.path, samples)["output_1"]

    assert result.verification.codes_equal
    np.testing.assert_allclose(same, samples, atol=0.05)


@pytest.mark.parametrize("target", ["tflm", "ethos-u", "edgetpu"])
def test_other_targets_refuse_by_name(two_by_two, tmp_path, target):
    with pytest.raises(ValueError, match=r"uint8.*`target='litert'`"):
        tflite_export.export(
            two_by_two[0],
            tmp_path / "model.tflite",
            target=target,
            io_dtype="uint8",
        )


def test_an_unknown_type_is_named(two_by_two, tmp_path):
    with pytest.raises(ValueError, match=r"must be one of .*int16.*'int8'"):
        tflite_export.export(
            two_by_two[0], tmp_path / "model.tflite", io_dtype="int16"
        )
