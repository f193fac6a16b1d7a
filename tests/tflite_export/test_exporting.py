"""The trained integers reach the file, and the file computes the model."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from support.custom_model import TokenAndPosition
from support.plain import export_plain

import codeq_keras
import tflite_export
from codeq_keras.deployment import find_kernels
from tflite_export.conversion.converter import convert
from tflite_export.conversion.graphs import inference_graph
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter
from tflite_export.samples import model_inputs
from tflite_export.weights.metadata import (
    METADATA_NAME,
    read_silent_channels,
)
from tflite_export.weights.sites import embedding_sites, weight_sites

ZOO_KERNELS = [
    "conv/kernel",
    "conv_no_bn/kernel",
    "depthwise/kernel",
    "multiplier/kernel",
    "pointwise/kernel",
    "grouped/kernel",
    "twin_left/kernel",
    "twin_right/kernel",
    "all_zero/kernel",
    "per_channel/kernel",
    "shared/kernel",
    "nested/conv/kernel",
    "transpose/kernel",
    "silent/kernel",
    "dense/kernel",
    "dense_bn/kernel",
    "head/kernel",
]


def _held(exported, axes):
    """All weight tensors of the file, as matrices of one row per channel."""
    file = Flatbuffer(exported.result.path.read_bytes())
    return file, [
        np.moveaxis(s.slot.codes, s.slot.axis, 0).reshape(
            s.slot.codes.shape[s.slot.axis], -1
        )
        for s in weight_sites(file)
        if s.slot.codes.ndim == axes
    ]


def test_all_trained_integers_of_all_layer_kinds_are_in_the_file(zoo):
    report = zoo.result.verification

    assert report.codes_equal
    assert report.unequal == ()
    assert report.num_tensors == len(zoo.trained) == len(ZOO_KERNELS)


@pytest.mark.parametrize("path", ["conv", "conv_no_bn", "pointwise", "grouped"])
def test_conv_kernel_is_in_the_file_up_to_the_sign_of_each_channel(zoo, path):
    codes = next(
        w.codes for p, w in zoo.trained.items() if p == f"{path}/kernel"
    )
    wanted = codes.transpose(3, 0, 1, 2).reshape(codes.shape[-1], -1)

    _, held = _held(zoo, axes=4)

    assert any(
        rows.shape == wanted.shape
        and all(
            np.array_equal(h, w) or np.array_equal(h, -w)
            for h, w in zip(rows, wanted, strict=True)
        )
        for rows in held
    )


def test_negative_gamma_flips_the_sign_of_its_channel(zoo):
    codes = zoo.trained["conv/kernel"].codes.transpose(3, 0, 1, 2)
    gamma = zoo.model.get_layer("conv_bn").gamma.value.numpy()

    _, held = _held(zoo, axes=4)

    assert (gamma < 0).any()
    expected = codes.reshape(8, -1) * np.sign(gamma)[:, None]
    assert any(np.array_equal(rows, expected) for rows in held)


def test_outputs_differ_from_the_model_by_few_lsb(zoo):
    # 19 int8 layers in a row, each of which rounds its activations.
    assert zoo.result.verification.max_output_lsb < 8
    assert zoo.result.verification.top1_agreement >= 0.9


def test_scale_without_batch_norm_is_the_trained_scale(dense_only):
    file = Flatbuffer(dense_only.result.path.read_bytes())
    scale = dense_only.trained["hidden/kernel"].scale

    tensor = next(
        s.tensor for s in weight_sites(file) if s.slot.codes.size == 72
    )

    assert set(tensor.scales) == {scale[()]}
    assert set(tensor.zero_points) == {0}


def test_dense_only_model_with_one_output_has_no_top1_agreement(dense_only):
    report = dense_only.result.verification

    assert report.codes_equal
    assert report.top1_agreement is None
    # Two layers: half a step each for the input, the hidden and the output
    # activations, the first two amplified by the weights.
    assert report.max_output_lsb < 4


def test_layer_left_out_of_the_quantization_is_noted(zoo):
    notes = [n for n in zoo.result.notes if "not_quantized/kernel" in n]

    assert len(notes) == 1
    assert ": not quantized in training" in notes[0]


def test_channel_without_gain_holds_zeros_and_is_noted(zoo):
    assert any(
        "'silent/kernel': 1 channels have a folded gain of zero" in note
        for note in zoo.result.notes
    )


def test_no_float_operator_is_left(zoo):
    assert not any("computes in float32" in note for note in zoo.result.notes)


def test_inputs_and_outputs_are_int8_with_a_batch_of_1(zoo):
    file = Flatbuffer(zoo.result.path.read_bytes())

    assert list(file.inputs()) == ["image"]
    assert file.inputs()["image"].shape == (1, 8, 8, 3)
    assert file.inputs()["image"].dtype == "int8"
    assert [t.dtype for t in file.outputs().values()] == ["int8"]


def test_record_has_silent_channels_alone_and_only_if_there_are_any(
    zoo, dense_only
):
    file = Flatbuffer(zoo.result.path.read_bytes())

    assert json.loads(file.metadata(METADATA_NAME)) == {"silent/kernel": 1}
    assert "metadata" in zoo.result.bytes_by_kind
    plain = Flatbuffer(dense_only.result.path.read_bytes())
    assert plain.metadata(METADATA_NAME) is None
    assert plain.metadata("min_runtime_version") is None


def test_record_of_older_files_is_read(dense_only):
    file = Flatbuffer(dense_only.result.path.read_bytes())
    weight = {"path": "a/kernel", "bit_width": 4, "sparsity": 0.5}
    old = {"version": "0.1.0", "weights": [{**weight, "silent_channels": 2}]}
    file.set_metadata(METADATA_NAME, json.dumps(old).encode())

    assert read_silent_channels(file) == {"a/kernel": 2}


def test_summary_names_size_proof_and_notes(zoo):
    text = str(zoo.result)

    assert f"{zoo.result.size_bytes:,} bytes" in text
    assert "with gzip" in text
    kinds = zoo.result.bytes_by_kind
    assert sum(kinds.values()) == zoo.result.size_bytes
    assert f"bytes: weights {kinds['weights']:,}, " in text
    assert zoo.result.to_dict()["bytes_by_kind"] == kinds
    assert f"{len(ZOO_KERNELS)} of {len(ZOO_KERNELS)} tensors equal" in text
    assert "note: " in text
    assert zoo.result.size_bytes == len(zoo.result.path.read_bytes())


def test_attention_and_conv1d_kernels_are_exact(
    grid, export_grid_model, rng, tmp_path
):
    sequence = keras.Input((6, 8), name="sequence")
    x = layers.Conv1D(8, 3, padding="same", activation="relu")(sequence)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.EinsumDense("abc,cde->abde", (6, 2, 4), name="einsum")(x)
    x = layers.Dense(3)(layers.Flatten()(x))
    model = keras.Model(sequence, x)

    exported = export_grid_model(model, grid(model, rng), tmp_path)

    assert exported.result.verification.codes_equal
    assert exported.result.verification.num_tensors == 1 + 4 + 1 + 1


def test_tokens_stay_int32_and_embedding_tables_are_exact(
    grid, export_grid_model, weight, rng, tmp_path
):
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    layer = TokenAndPosition(20, 6, 8, name="text")
    x = layers.Dense(8, activation="relu")(layers.Flatten()(layer(tokens)))
    model = keras.Model(tokens, layers.Dense(3, name="head")(x))
    trained = grid(model, rng)
    tables = {"GATHER": layer.token, "ADD": layer.position}
    paths = {id(kernel.variable): kernel.path for kernel in find_kernels(model)}
    for table, scale in zip(tables.values(), (0.1, 0.03), strict=True):
        # The largest code on one side only: the converter's zero point moves.
        codes = rng.integers(-3, 8, table.embeddings.shape).astype(np.int8)
        trained[paths[id(table.embeddings)]] = weight(codes, np.float32(scale))
        table.embeddings.assign(codes * np.float32(scale))
    samples = rng.integers(0, 20, (16, 6))

    exported = export_grid_model(model, trained, tmp_path, samples)

    file = Flatbuffer(exported.result.path.read_bytes())
    report = exported.result.verification
    assert report.codes_equal
    assert report.num_tensors == 4
    assert file.inputs()["tokens"].dtype == "int32"
    held = {
        site.operator.name: site.tensor
        for site in embedding_sites(file)
        if site.tensor.data.size in (20 * 8, 6 * 8)
    }
    for operator, table in tables.items():
        weight = trained[paths[id(table.embeddings)]]
        codes, scale = weight.codes, weight.scale
        tensor = held[operator]
        np.testing.assert_array_equal(tensor.data.reshape(codes.shape), codes)
        assert tensor.zero_points.tolist() == [0]
        assert tensor.scales == scale
    # Half a step each for the sum, two layers and the output, amplified.
    assert report.max_output_lsb < 4


def test_several_inputs_and_outputs_are_matched_by_name(
    grid, export_grid_model, rng, tmp_path
):
    # Alphabetical order is not the order of the model, on purpose.
    first = keras.Input((4,), name="z_first")
    second = keras.Input((6,), name="a_second")
    outputs = {
        "small": layers.Dense(2)(first),
        "large": layers.Dense(3)(layers.Dense(4, activation="relu")(second)),
    }
    model = keras.Model({"z_first": first, "a_second": second}, outputs)
    samples = {
        "z_first": rng.normal(size=(16, 4)),
        "a_second": 5 * rng.normal(size=(16, 6)),
    }

    result = export_grid_model(
        model, grid(model, rng), tmp_path, samples
    ).result

    assert result.verification.codes_equal
    names = [output.name for output in result.verification.outputs]
    assert names == ["large", "small"]
    assert result.verification.max_output_lsb < 4


@pytest.fixture(scope="module")
def qmodel():
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(3)]
    )
    return codeq_keras.quantize_model(model)


def test_converter_crash_is_an_error_and_not_the_end_of_the_process(rng):
    model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4)])
    samples = [rng.normal(size=(4, 5, 3)).astype("float32")]

    with pytest.raises(RuntimeError, match="unroll=True"):
        convert(inference_graph(model), model_inputs(model), samples)


def test_misspelt_target_lists_targets_and_suggests_the_closest(qmodel):
    with pytest.raises(
        ValueError, match=r"\['litert', 'litert-sparse', .*you mean 'litert'"
    ):
        tflite_export.export(qmodel, "m.tflite", target="lite-rt")


def test_unquantized_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="quantize_model"):
        tflite_export.export(
            keras.Sequential([keras.Input((2,)), layers.Dense(1)]),
            tmp_path / "m.tflite",
            representative_dataset=np.zeros((1, 2)),
        )


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("model.h5", "must end in '.tflite'"),
        ("nowhere/model.tflite", "in an existing folder"),
        ("folder.tflite", "the name of a file.*, a folder"),
    ],
)
def test_wrong_path_is_refused(qmodel, tmp_path, path, text):
    (tmp_path / "folder.tflite").mkdir()

    with pytest.raises(ValueError, match=text):
        tflite_export.export(qmodel, tmp_path / path)


def test_an_open_size_gets_the_one_of_the_samples_and_a_note(tmp_path, rng):
    signal = keras.Input((None, 4), name="signal")
    model = keras.Model(signal, layers.Dense(3)(signal))

    result = tflite_export.export(
        codeq_keras.quantize_model(model),
        tmp_path / "model.tflite",
        representative_dataset=rng.normal(size=(8, 5, 4)),
    )

    tensor = Flatbuffer(result.path.read_bytes()).inputs()["signal"]
    assert tensor.shape == (1, 5, 4)
    (note,) = (n for n in result.notes if "open size" in n)
    assert "'signal' of the open size (None, 4) has (5, 4) in the file" in note


def test_missing_samples_are_asked_for_with_their_shape(qmodel, tmp_path):
    with pytest.raises(ValueError, match=r"array of shape \(n, 4, 4, 1\)"):
        tflite_export.export(qmodel, tmp_path / "m.tflite")


def test_samples_of_a_wrong_shape_are_refused(qmodel, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"Expected samples of shape \(n, 4, 4, 1\).*"
        r"Received shape: \(9, 5, 5, 1\)",
    ):
        tflite_export.export(
            qmodel,
            tmp_path / "m.tflite",
            representative_dataset=np.zeros((9, 5, 5, 1)),
        )


def test_weights_with_nan_name_their_layer(grid, rng):
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(2), layers.Dense(1, name="broken")]
    )
    trained = grid(model, rng)
    model.get_layer("broken").bias.assign([np.nan])

    with pytest.raises(ValueError, match=r"diverged in layer '.*broken'"):
        export_plain(
            model,
            trained,
            Path("m.tflite"),
            representative_dataset=np.zeros((1, 2)),
        )


def test_other_backend_is_refused(qmodel, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")

    with pytest.raises(ValueError, match=r"KERAS_BACKEND=tensorflow"):
        tflite_export.export(
            qmodel,
            tmp_path / "m.tflite",
            representative_dataset=np.zeros((1, 4, 4, 1)),
        )


@keras.saving.register_keras_serializable(package="tests")
class Fourier(layers.Layer):
    """Has no kernel in TFLite's built-in operators."""

    def call(self, inputs):
        return keras.ops.fft((inputs, inputs))[0]


def test_operation_that_cannot_be_converted_is_named(grid, rng, tmp_path):
    model = keras.Sequential([keras.Input((4, 4)), layers.Dense(4), Fourier()])

    with pytest.raises(RuntimeError, match="TF Select ops: Complex, FFT"):
        export_plain(
            model,
            grid(model, rng),
            tmp_path / "model.tflite",
            representative_dataset=rng.normal(size=(4, 4, 4)),
        )


def test_tokens_of_few_bits_need_no_samples(rng, tmp_path):
    tokens = keras.Input((8,), dtype="uint8")
    x = layers.Flatten()(layers.Embedding(20, 6)(tokens))
    model = keras.Model(tokens, layers.Dense(3)(x))
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    # All words, so that the trained range is that of the whole table.
    words = rng.integers(0, 20, (64, 8)).astype("uint8")
    qmodel(words, training=True)

    result = tflite_export.export(qmodel, tmp_path / "model.tflite")

    # 217 is in no vocabulary of 20 words.
    assert result.verification.codes_equal
    assert tflite_export.verify(result.path, qmodel).codes_equal


def test_a_vector_of_a_layer_is_no_kernel_whose_ranges_are_asked_for(tmp_path):
    image = keras.Input((4, 6))
    x = layers.LayerNormalization(axis=[-2, -1])(layers.Dense(5)(image))
    model = keras.Model(image, layers.Dense(3)(x))
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    qmodel(np.ones((4, 4, 6), "float32"), training=True)

    result = tflite_export.export(qmodel, tmp_path / "model.tflite")

    assert any("are not trained" in note for note in result.notes)


def test_dense_weights_are_run_once_for_the_proof(
    dense_only, tmp_path, monkeypatch
):
    runs = []
    run = interpreter.run

    def counted(*arguments, **options):
        runs.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(interpreter, "run", counted)

    export_plain(
        dense_only.model,
        dense_only.trained,
        tmp_path / "model.tflite",
        representative_dataset=dense_only.samples,
        weight_storage="int8",
    )

    assert len(runs) == 1
