"""The script for the paper's Fig. 4: its optimizer and its table."""

import keras
import pytest
from paper import figure4


@pytest.mark.parametrize("steps", [100, 5000])
def test_logits_would_decay_as_much_as_the_papers(steps):
    variable = keras.Variable(3.0, name="value")
    optimizer = figure4.optimizer(0.0, steps)
    logits = optimizer.optimizers[0]
    optimizer.build([variable])

    # The penalty `lambda / 2 * theta ** 2` has the gradient `lambda * theta`.
    peak_rate = float(logits.learning_rate) / (1 - logits.momentum)
    assert peak_rate * steps == pytest.approx(4.07 * 100)


def test_weight_decay_is_for_the_kernels_only():
    optimizer = figure4.optimizer(0.0025, 100)

    logits, weights = optimizer.optimizers

    assert logits.weight_decay is None
    assert weights.weight_decay == pytest.approx(0.0025 / (1 - 0.9))


def test_table_stands_beside_the_paper():
    rows = [
        {
            "penalty": 0.0025,
            "weight_decay": 0.0,
            "paper": [0.24, 1.37],
            "sparsity": [0.01, 0.2],
            "logit": [3.0, 1.5],
            "test_accuracy": 0.8,
        }
    ]

    table = figure4.as_table(rows)

    assert table.splitlines()[-1] == (
        "| 0.0025 | 0 | 0.20 | 0.24 | 1.50 | 1.37 | 80.0 % |"
    )
