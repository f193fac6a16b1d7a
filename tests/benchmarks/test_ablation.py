"""`benchmarks/ablation.py` trains every extra and reports."""

import sys

import ablation
import accuracy
import numpy as np
import pytest
from workloads import Splits

VARIANTS = ["plain", "logits_frozen", "learned_bound", "oscillation_weak"]


def noise(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(len(split))
    x = rng.normal(size=(count, 49, 10, 1)).astype("float32")
    return x, rng.integers(0, 12, count)


# A budget of 2 % takes 300 steps.
@pytest.mark.filterwarnings("ignore:CompressionBudget")
def test_runs_are_recorded_once_and_compared(monkeypatch, tmp_path):
    counts = {"train": 64, "validation": 1, "test": 64}
    monkeypatch.setattr(ablation, "NUM_EXAMPLES", counts)
    monkeypatch.setattr(ablation, "load_keywords", noise)
    monkeypatch.setattr(ablation, "FLOAT_EPOCHS", 1)
    arguments = ["--variants", *VARIANTS, "--results", str(tmp_path)]
    arguments += ["--seeds", "0"]
    for command in ("run", "run", "report"):
        monkeypatch.setattr(sys, "argv", ["ablation.py", command, *arguments])
        ablation.main()

    lines = accuracy.read(tmp_path / "ablation.jsonl")
    report = (tmp_path / "ablation.md").read_text()
    assert [line["variant"] for line in lines] == VARIANTS
    assert sum("| +" in row or "| -" in row for row in report.splitlines()) == 3


def test_bound_is_learned_and_weights_oscillate():
    split = Splits(noise("train", 256), noise("v", 1), noise("test", 64))
    net = ablation.build()
    for name in ("learned_bound", "oscillation_strong"):
        variant = ablation.VARIANTS[name]
        model = ablation.quantized(variant, net)
        train = ablation.Batches(*split.train, batch_size=64, seed=0)
        callbacks = variant.callbacks(net, train)
        ablation.fit(model, train, callbacks, epochs=1, constant_rate=True)
        if variant.quantizer:
            assert all(
                float(k.quantizer.log_factor) != 0 for k in model.kernels
            )
