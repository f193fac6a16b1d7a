"""The command line answers with tables, JSON and exit codes."""

import io
import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import codeq_keras
from tflite_export.cli import loading
from tflite_export.cli.commands import EXIT_ERROR, EXIT_NO, EXIT_OK, main
from tflite_export.format.edits import densify
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.sparse import encode_sparse
from tflite_export.weights.sites import weight_sites


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A quantized model, samples, and the file that `export` makes of them."""
    folder = tmp_path_factory.mktemp("command_line")
    model = keras.Sequential(
        [
            keras.Input((6,), name="sensor"),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    codeq_keras.quantize_model(model).save(folder / "model.keras")
    rng = np.random.default_rng(0)
    np.save(folder / "samples.npy", rng.normal(size=(20, 6)))
    np.savez(folder / "samples.npz", sensor=rng.normal(size=(20, 6)))
    return folder


@pytest.fixture(scope="module")
def exported(folder):
    """The code and the path of the exported file."""
    path = folder / "model.tflite"
    samples = ("--samples", str(folder / "samples.npy"))
    model = str(folder / "model.keras")
    return main(["export", model, str(path), *samples]), path


def _run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr()


def test_compress_writes_a_file_of_a_float_model(folder, capsys):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,), name="sensor"),
            keras.layers.Dense(32, activation="relu", name="hidden"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    model.save(folder / "float.keras")
    samples = np.random.default_rng(0).normal(size=(64, 6))
    np.save(folder / "many.npy", samples.astype("float32"))
    path = folder / "compressed.tflite"
    arguments = ["compress", folder / "float.keras", path, "--sparsity", 0.5]
    code, output = _run(
        capsys, *arguments, "--samples", folder / "many.npy", "--json"
    )

    assert code == EXIT_OK, output.err
    assert json.loads(output.out)["verification"]["codes_equal"]
    code, output = _run(capsys, "inspect", path, "--json")
    zeros = [w["sparsity"] for w in json.loads(output.out)["tensors"]]
    assert max(zeros) >= 0.5


def test_compress_needs_samples_and_one_budget(folder, capsys):
    model, path = folder / "model.keras", folder / "no.tflite"
    for more, words in (
        ((), "--samples"),
        (("--sparsity", 0.5, "--size-bytes", 9), "not allowed with"),
    ):
        with pytest.raises(SystemExit) as ended:
            _run(capsys, "compress", model, path, *more)
        assert ended.value.code == 2
        assert words in capsys.readouterr().err


def test_export_writes_the_file_and_ends_with_0(exported):
    code, path = exported

    assert code == EXIT_OK
    assert path.read_bytes()[4:8] == b"TFL3"


def test_export_as_json_holds_the_proof(folder, capsys):
    code, captured = _run(
        capsys,
        *("export", folder / "model.keras", folder / "again.tflite"),
        *("--samples", folder / "samples.npz", "--json"),
    )

    result = json.loads(captured.out)
    assert code == EXIT_OK
    assert result["verification"]["codes_equal"] is True
    assert result["path"].endswith("again.tflite")


def test_inspect_shows_one_row_for_each_constant(exported, capsys):
    code, captured = _run(capsys, "inspect", exported[1])

    assert code == EXIT_OK
    assert "FULLY_CONNECTED" in captured.out
    assert "8x6" in captured.out
    assert "dense" in captured.out
    assert "Bytes by kind" in captured.out
    assert "Bytes by layer" in captured.out


def test_inspect_as_json_has_numbers(exported, capsys):
    code, captured = _run(capsys, "inspect", exported[1], "--json")

    inspected = json.loads(captured.out)
    rows = inspected["tensors"]
    row = next(row for row in rows if row["shape"] == [8, 6])
    assert code == EXIT_OK
    assert row["size_bytes"] == 8 * 6
    assert 0 <= row["sparsity"] <= 1
    assert row["entropy_bytes"] <= 8 * 6
    size = inspected["size_bytes"]
    assert sum(inspected["account"]["by_kind"].values()) == size
    layers = inspected["account"]["by_layer"].values()
    assert sum(sum(kinds.values()) for kinds in layers) == size


def test_verify_ends_with_0_for_the_model_and_1_for_another(
    folder, exported, capsys
):
    other = codeq_keras.quantize_model(
        keras.Sequential(
            [
                keras.Input((6,), name="sensor"),
                keras.layers.Dense(8),
                keras.layers.Dense(3),
            ]
        )
    )
    other.save(folder / "other.keras")
    samples = ("--samples", folder / "samples.npy")

    same, captured = _run(
        capsys, "verify", exported[1], folder / "model.keras", *samples
    )
    different, _ = _run(
        capsys, "verify", exported[1], folder / "other.keras", *samples
    )

    assert same == EXIT_OK
    assert "2 of 2 tensors equal" in captured.out
    assert different == EXIT_NO


def test_labels_give_the_accuracy_of_the_file_and_of_the_model(
    folder, exported, capsys
):
    samples = np.load(folder / "samples.npy").astype("float32")
    model = keras.saving.load_model(folder / "model.keras")
    classes = model.predict(samples, verbose=0).argmax(axis=-1)
    classes[:5] = (classes[:5] + 1) % 3  # So 15 of 20 are right.
    np.save(folder / "labels.npy", classes)
    options = ("--samples", folder / "samples.npy")
    options += ("--labels", folder / "labels.npy")

    verified, text = _run(
        capsys, "verify", exported[1], folder / "model.keras", *options
    )
    code, plain = _run(
        capsys,
        *("benchmark", exported[1], "--target", "edgetpu", "--json"),
        *options,
    )

    assert verified == code == EXIT_OK
    assert "accuracy on 20 samples: file " in text.out
    assert "model 75.00%" in text.out
    (row,) = json.loads(plain.out)["rows"]
    # Roundings to int8 may move a sample near a tie.
    assert abs(row["accuracy"] - 0.75) <= 0.1


@pytest.mark.parametrize("command", ["verify", "benchmark"])
def test_labels_that_do_not_fit_are_named(folder, exported, capsys, command):
    np.save(folder / "one_hot.npy", np.eye(20, 3, dtype=int))
    model = (folder / "model.keras",) * (command == "verify")
    samples = ("--samples", folder / "samples.npy")
    labels = ("--labels", folder / "one_hot.npy")

    code, text = _run(capsys, command, exported[1], *model, *samples, *labels)
    without, told = _run(capsys, command, exported[1], *model, *labels)

    assert code == without == EXIT_ERROR
    assert "They look one-hot" in text.err
    assert "`labels` need samples" in told.err


def test_verify_without_samples_takes_random_ones_and_says_so(
    folder, exported, capsys
):
    arguments = ("verify", exported[1], folder / "model.keras")

    code, captured = _run(capsys, *arguments)
    _, plain = _run(capsys, *arguments, "--json")

    assert code == EXIT_OK
    assert "output_0 on 64 samples" in captured.out
    assert "note: compared on random inputs" in captured.out
    assert "random inputs" in json.loads(plain.out)["notes"][0]


def test_check_ends_with_0_where_the_file_runs_and_1_where_not(
    folder, exported, capsys
):
    file = Flatbuffer(exported[1].read_bytes())
    tensor = weight_sites(file)[0].tensor
    densify(file, 0, tensor.index, encode_sparse(tensor.data))
    sparse = folder / "sparse.tflite"
    sparse.write_bytes(file.to_bytes())

    runs, captured = _run(capsys, "check", exported[1])
    blocked, text = _run(
        capsys, "check", sparse, "--target", "edgetpu", "--json"
    )

    assert runs == EXIT_OK
    assert "litert: ok" in captured.out
    report = json.loads(text.out)
    assert blocked == EXIT_NO
    assert report["is_ok"] is False
    assert "sparse tensor" in report["findings"][0]["text"]


def test_check_takes_a_model_that_was_not_exported(folder, capsys):
    code, captured = _run(capsys, "check", folder / "model.keras")

    assert code == EXIT_OK
    assert "FULLY_CONNECTED" in captured.out


@pytest.mark.parametrize("command", ["inspect", "verify", "check"])
def test_error_is_one_text_on_stderr_and_ends_with_3(
    folder, tmp_path, capsys, command
):
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"no model at all")
    rest = (folder / "model.keras", "--samples", folder / "samples.npy")

    code, captured = _run(
        capsys, command, broken, *(rest if command == "verify" else ())
    )

    assert code == EXIT_ERROR
    assert captured.out == ""
    assert "error: Expected a .tflite file" in captured.err
    assert "starts with b'no model'" in captured.err
    assert "Traceback" not in captured.err


def test_wrong_arguments_end_with_2(capsys):
    with pytest.raises(SystemExit) as error:
        main(["export"])

    assert error.value.code == 2
    assert "usage: tflite-export export" in capsys.readouterr().err


def test_zip_bomb_is_refused_before_it_is_unfolded(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "SMALL_BYTES", 2**16)
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(2**22))

    with pytest.raises(ValueError, match="bytes that claim to be 4,194,304"):
        loading.load_keras_model(path)


def _rewritten(source, path, name, change):
    """A copy of a .keras file with one entry changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            data = old.read(entry)
            new.writestr(entry, change(data) if entry == name else data)


def test_layer_that_claims_gigabytes_is_refused(folder, tmp_path):
    path = tmp_path / "model.keras"
    # 6 inputs and 8 units become 6 and 10**9, which is 24 GB of weights.
    _rewritten(
        folder / "model.keras",
        path,
        "config.json",
        lambda data: data.replace(b'"units": 8', b'"units": 1000000000'),
    )

    with pytest.raises(ValueError, match=r"Expected a \.keras file"):
        loading.load_keras_model(path)


def test_weights_that_claim_gigabytes_are_refused(folder, tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "model.keras"

    def inflate(data):
        buffer = io.BytesIO(data)
        with h5py.File(buffer, "r+") as file:
            names = []
            file.visit(names.append)
            name = next(
                n
                for n in names
                if isinstance(file[n], h5py.Dataset) and file[n].ndim == 2
            )
            del file[name]
            # Chunks that were never written take no bytes in the file.
            file.create_dataset(name, (2**20, 2**14), "f4", chunks=(1, 64))
        return buffer.getvalue()

    _rewritten(folder / "model.keras", path, "model.weights.h5", inflate)

    assert path.stat().st_size < 2**20
    with pytest.raises(ValueError, match=r"Expected a \.keras file"):
        loading.load_keras_model(path)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("missing.keras", "{}"), "a folder"),
        (("missing.keras", "m.tflite", "--samples", "{}"), "a folder"),
        (("missing.keras", "m.bin"), "must end in '.tflite'"),
    ],
    ids=["target", "samples", "suffix"],
)
def test_wrong_paths_are_refused_before_the_model_is_loaded(
    tmp_path, capsys, arguments, text
):
    folder = tmp_path / "model.tflite"
    folder.mkdir()

    code, captured = _run(
        capsys, "export", *(a.format(folder) for a in arguments)
    )

    assert code == EXIT_ERROR
    assert text in captured.err


@pytest.mark.parametrize(
    "wrong",
    [
        ("--target", "npu"),
        ("--target", "tflm", "--weight-storage", "int4"),
        ("--project", "cmake"),
        ("--target", "tflm", "--project", "make"),
    ],
    ids=["target", "storage", "target of a project", "project"],
)
def test_wrong_target_storage_or_project_ends_with_2_before_loading(
    wrong, capsys
):
    with pytest.raises(SystemExit) as ended:
        main(["export", "missing.keras", "m.tflite", *wrong])

    assert ended.value.code == 2
    assert "Received:" in capsys.readouterr().err


def test_check_knows_a_quantized_model_in_a_process_of_its_own(folder):
    command = [sys.executable, "-m", "tflite_export", "check"]

    done = subprocess.run(
        [*command, str(folder / "model.keras")], capture_output=True, text=True
    )

    assert done.returncode == EXIT_OK, done.stderr
    assert "litert: ok" in done.stdout


def test_damaged_keras_files_are_refused(folder, tmp_path):
    data = (folder / "model.keras").read_bytes()
    short, empty = tmp_path / "short.keras", tmp_path / "empty.keras"
    short.write_bytes(data[: len(data) // 2])
    with zipfile.ZipFile(empty, "w"):
        pass

    for path in (short, empty):
        with pytest.raises(ValueError, match=r"Expected a \.keras file"):
            loading.load_keras_model(path)
    renamed = tmp_path / "model.h5"
    renamed.write_bytes(data)
    with pytest.raises(ValueError, match=r"Rename it to end in '\.keras'"):
        loading.load_keras_model(renamed)


def test_samples_must_be_arrays(tmp_path):
    text = tmp_path / "samples.npz"
    text.write_text("1, 2, 3")
    pickled = tmp_path / "samples.npy"
    np.save(pickled, np.array([{"a": 1}]), allow_pickle=True)

    for path in (text, pickled):
        with pytest.raises(ValueError, match="Expected samples as an array"):
            loading.load_samples(path)
