"""The accuracy benchmark runs, resumes and reports."""

import subprocess
import sys

import keras
import pytest
from accuracy import report, run
from accuracy.methods import METHODS
from accuracy.workloads import WORKLOADS
from harness import cli, results, training, workload
from support.stripes import stripes

import codeq_keras

BUDGET = 0.06


def tiny_network() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(192, 3, strides=2, name="conv")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="dense")(x))


@pytest.fixture
def tiny(monkeypatch):
    tiny = workload.Workload(tiny_network, stripes, "stripes", num_train=640)
    monkeypatch.setitem(WORKLOADS, "tiny", tiny)
    counts = {"validation": 100, "test": 200}
    monkeypatch.setattr(workload, "NUM_EXAMPLES", counts)
    monkeypatch.setattr(training, "FLOAT_CYCLES", ((2, 0.5),))


def compare(folder, *methods: str) -> None:
    arguments = ["--models", "tiny", "--output", str(folder)]
    arguments += ["--methods", *methods, "--budgets", str(BUDGET)]
    run.main([*arguments, "--epochs", "60", "--seeds", "0", "--save"])


def test_runs_are_recorded_once_and_reported(tiny, tmp_path):
    methods = ("float", "prune_layer_wise", "obc", "ours")
    compare(tmp_path, *methods)
    path = tmp_path / "accuracy_tiny.jsonl"
    lines = results.read(path)
    assert [line["method"] for line in lines] == list(methods)
    compare(tmp_path, *methods)
    assert results.read(path) == lines

    by_method = {line["method"]: line for line in lines}
    assert by_method["float"]["relative_bops"] == 1.0
    # 600 steps meet a budget; 10 weights of the convolution are 1 % of it.
    assert by_method["ours"]["relative_bops"] == pytest.approx(BUDGET, rel=0.05)
    for method in ("prune_layer_wise", "obc"):
        assert by_method[method]["relative_bops"] <= BUDGET * 1.1
    assert by_method["ours"]["test_score"] > 0.9

    saved = tmp_path / "models" / "tiny_ours_0.06_60_0.keras"
    qmodel = keras.saving.load_model(saved, compile=False)
    assert codeq_keras.report(qmodel).relative_bops == pytest.approx(
        by_method["ours"]["relative_bops"]
    )

    path.with_suffix(".notes.md").write_text("One thread.")
    compare(tmp_path, *methods)
    table = path.with_suffix(".md").read_text()
    assert table.endswith("\nOne thread.\n")
    for method in methods:
        assert METHODS[method].label in table
    assert path.with_suffix(".png").stat().st_size > 0


def test_table_gives_the_spread_and_the_loss_against_equal_epochs():
    common = {
        "model": "m",
        "sparsity": 0.5,
        "kernel_bytes": 100,
        "date": "2026-01-01",
        "versions": {"keras": "3"},
        "hardware": "cpu",
    }
    lines = [
        common
        | {
            "method": method,
            "epochs": 12,
            "budget": budget,
            "seed": seed,
            "relative_bops": bops,
            "test_score": value,
        }
        for method, budget, bops, values in (
            ("ours", 0.05, 0.05, (0.90, 0.92)),
            ("float", None, 1.0, (0.91, 0.93)),
        )
        for seed, value in enumerate(values)
    ]
    parts = report.page(report.grouped(lines), lines, WORKLOADS["resnet8"])
    table = "\n".join(parts)
    assert "| 91.00 ± 1.41 | -1.00 |" in table
    assert table.index("Float fine-tuning") < table.index("CoDeQ for Keras")


@pytest.mark.slow
def test_training_half_needs_no_tensorflow():
    code = """
import sys
class NoTensorFlow:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, NoTensorFlow())
import accuracy.run
from datasets import load
load("keywords", "train", 1)
"""
    folder = cli.RESULTS.parent
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "KERAS_BACKEND": "jax",
            "PYTHONPATH": f"{folder}:{folder.parent}",
            "PATH": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
