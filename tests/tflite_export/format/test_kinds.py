"""Files of other kinds are named with the remedy, wherever a file is read."""

import gzip
import io
import pickle
import zipfile

import keras
import numpy as np
import pytest

from tflite_export import benchmark, check, export, inspect, verify
from tflite_export.cli.commands import EXIT_ERROR, EXIT_OK, main
from tflite_export.cli.loading import load_keras_model, load_samples


def _archive(*names):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name in names:
            archive.writestr(name, "contents")
    return held.getvalue()


def _hdf5(folder, *, weights_only):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    path = folder / "held.weights.h5"
    if weights_only:
        model.save_weights(path)
        return path.read_bytes()
    h5py = pytest.importorskip("h5py")
    # What Keras 2 wrote; `model.save` to HDF5 warns.
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = model.to_json()
    return path.read_bytes()


LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
)
KINDS = {
    "Git LFS": (LFS, "Git LFS pointer.*`git lfs pull`"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x03", "ONNX model.*onnx2tf"),
    "task": (_archive("face.tflite", "labels.txt"), r"unzip.*face\.tflite"),
    "zip": (_archive("readme.txt"), "Unpack it"),
    "cut zip": (_archive("face.tflite")[:40], "damaged zip archive"),
    "gzip": (gzip.compress(b"model"), "packed by gzip.*gunzip"),
    "PyTorch": (_archive("model/data.pkl"), "PyTorch.*LiteRT Torch"),
    "old PyTorch": (pickle.dumps("torch._utils", protocol=2), "PyTorch"),
    "pickle": (pickle.dumps([1, 2]), "a pickle"),
    "web page": (b"\n<!DOCTYPE html><p>404", "web page.*Download the file"),
    "saved_model.pb": (b"\x08\x01\x12\x0a\x0a", "from_saved_model"),
    "JSON": (b'{"format": "layers-model"}', "JSON"),
    "table": (b"a,b\n1.5,2\n3,4\n", r"\.csv.*numpy\.loadtxt"),
    "image": (b"\x89PNG\r\n\x1a\n", "an image"),
    "empty": (b"", "an empty file"),
    "other": (b"no model at all", "starts with b'no model'"),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def wrong(tmp_path, kind):
    data, text = KINDS[kind]
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    return path, text


@each_kind
def test_where_a_tflite_file_is_read_another_kind_is_named(wrong):
    path, text = wrong

    for read in (inspect, check, benchmark, lambda p: verify(p, None)):
        with pytest.raises(ValueError, match=rf"(?s)\.tflite file.*{text}"):
            read(path)


@each_kind
def test_where_a_model_is_read_another_kind_is_named(wrong):
    path, text = wrong
    # A suffix promises nothing.
    path = path.rename(path.with_suffix(".keras"))
    if "Unpack" in text:
        text = "Received: "  # Keras says what such an archive lacks.

    with pytest.raises(ValueError, match=rf"(?s)a \.keras file.*{text}"):
        load_keras_model(path)


@each_kind
def test_where_samples_are_read_another_kind_is_named(wrong):
    path, text = wrong

    with pytest.raises(ValueError, match=rf"(?s)samples as an array.*{text}"):
        load_samples(path.rename(path.with_suffix(".npy")))


@pytest.mark.parametrize(
    ("weights_only", "text"),
    [(False, r"keras\.saving\.load_model"), (True, r"model\.load_weights")],
)
@pytest.mark.parametrize("suffix", [".h5", ".keras", ".tflite"])
def test_hdf5_is_named_under_any_name(tmp_path, weights_only, text, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(_hdf5(tmp_path, weights_only=weights_only))

    for read in (inspect, load_keras_model, load_samples):
        with pytest.raises(ValueError, match=rf"HDF5.*{text}"):
            read(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [("saved_model.pb", "SavedModel.*model.save"), ("x", "a folder")],
)
def test_folders_are_named(tmp_path, name, text):
    (tmp_path / name).write_bytes(b"\x08\x01\x12")

    for read in (inspect, check, benchmark, load_keras_model, load_samples):
        with pytest.raises(ValueError, match=text):
            read(tmp_path)


@pytest.mark.parametrize("command", ["inspect", "check", "benchmark"])
def test_commands_say_it_in_one_line(tmp_path, capsys, command):
    path = tmp_path / "model.tflite"
    path.write_bytes(LFS)

    code = main([command, str(path)])

    error = capsys.readouterr().err
    assert code == EXIT_ERROR
    assert error.count("\n") == 1
    assert "git lfs pull" in error


def test_models_and_samples_of_another_name_are_told_to_be_renamed(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.save(tmp_path / "model.keras")
    renamed = (tmp_path / "model.keras").rename(tmp_path / "model.zip")
    arrays = tmp_path / "x.npy"
    np.savez(tmp_path / "x.npz", x=np.ones(2))
    (tmp_path / "x.npz").rename(arrays)

    with pytest.raises(ValueError, match=r"Rename it to end in '\.keras'"):
        load_keras_model(renamed)
    # Samples are told apart by their bytes.
    assert list(load_samples(arrays)) == ["x"]


@pytest.mark.parametrize("name", ["MODEL.TFLITE", "model.lite", "model.bin"])
def test_a_tflite_file_may_have_any_name(tmp_path, dense_only, name, capsys):
    path = tmp_path / name
    path.write_bytes(dense_only.result.path.read_bytes())

    assert len(inspect(path).tensors) == 4
    assert main(["check", str(path)]) == EXIT_OK
    assert "litert: ok" in capsys.readouterr().out


@pytest.mark.parametrize(
    "path", [keras.Sequential(name="net"), None, 3, ["a.tflite"], b"TFL3"]
)
@pytest.mark.parametrize(
    "function",
    [
        inspect,
        benchmark,
        lambda path: verify(path, "model.tflite"),
    ],
    ids=["inspect", "benchmark", "verify"],
)
def test_what_is_no_path_is_refused_by_its_kind(function, path):
    kind = type(path).__name__
    with pytest.raises(ValueError, match=f"path of a file. Received: .*{kind}"):
        function(path)


@pytest.mark.parametrize("path", [keras.Sequential(name="net"), None])
def test_what_is_no_path_is_refused_before_the_export(path):
    with pytest.raises(ValueError, match=f"Received: path={path!r}"):
        export("model.tflite", path)


def test_a_model_in_the_place_of_the_path_is_told_the_order():
    with pytest.raises(ValueError, match=r"`verify\(path, model\)`"):
        verify(keras.Sequential(), "model.tflite")
