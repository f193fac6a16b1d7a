"""Workload: a network, its data, and how well it does."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

NUM_EXAMPLES = {"validation": 3_000, "test": 10_000}

Arrays = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Goal:
    """The purpose of a training: its loss, and a score in [0, 1] to judge it.

    `score` takes inputs, outputs and labels. `distance` is between the outputs
    of a teacher and of a model; None for that of `Distillation`.
    """

    loss: keras.losses.Loss
    score: Callable[[np.ndarray, np.ndarray, np.ndarray], float]
    score_name: str
    distance: keras.losses.Loss | None = None

    def evaluate(self, model: keras.Model, examples: Arrays) -> float:
        """Returns the score of a model on inputs and labels."""
        x, y = examples
        outputs = model.predict(x, batch_size=500, verbose=0)
        return self.score(x, outputs, y)


def accuracy(x: np.ndarray, outputs: np.ndarray, y: np.ndarray) -> float:
    """Returns the fraction of right answers; the inputs are not used."""
    return float((outputs.argmax(-1) == y).mean())


def reconstruction_auc(
    x: np.ndarray, outputs: np.ndarray, y: np.ndarray
) -> float:
    """Returns how well the error of a reconstruction tells anomalies (1).

    The area under the ROC curve: the probability that an anomaly has a larger
    mean squared error than a normal example.
    """
    ranks = np.square(outputs - x).mean(-1).argsort().argsort() + 1
    anomalies, others = (y == 1).sum(), (y == 0).sum()
    wins = ranks[y == 1].sum() - anomalies * (anomalies + 1) / 2
    return float(wins / (anomalies * others))


_squares = keras.losses.MeanSquaredError()
_crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
CLASSIFICATION = Goal(_crossentropy, accuracy, "accuracy")
ANOMALY_DETECTION = Goal(_squares, reconstruction_auc, "AUC", _squares)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network and its data.

    `load` returns the first examples of a split: inputs, and targets where the
    split is "train", labels elsewhere. `note` is for readers of the results.
    The learning rate, that of all methods, was chosen on ResNet-8's validation
    split where nothing else is said.
    """

    build: Callable[[], keras.Model]
    load: Callable[[str, int], Arrays]
    note: str
    goal: Goal = CLASSIFICATION
    augment: bool = False  # Mirror and transpose images.
    num_train: int = 10_000
    learning_rate: float = 6e-3


@dataclasses.dataclass(frozen=True)
class Splits:
    """Arrays of inputs and targets or labels of the three splits."""

    train: Any
    validation: Any
    test: Any

    @classmethod
    def load(cls, workload: Workload, limit: int | None = None) -> "Splits":
        """Loads a workload's data, at most `limit` examples of each split."""
        counts = {"train": workload.num_train, **NUM_EXAMPLES}
        parts = {s: min(n, limit or n) for s, n in counts.items()}
        return cls(**{s: workload.load(s, n) for s, n in parts.items()})
