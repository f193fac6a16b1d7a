"""The networks, data and tasks that `accuracy.py` compares methods on."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import data  # noqa: F401  Makes `datasets` importable.
import keras
import networks
import numpy as np
from datasets import keywords, machine_sounds, shapes

NUM_EXAMPLES = {"validation": 3_000, "test": 10_000}


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, and how well it was.

    Attributes:
        loss: Keras loss of targets and outputs.
        score: From arrays of inputs, outputs and labels to a number in [0, 1],
            the higher the better.
        score_name: What the number is.
        distance: Between the outputs of a teacher and of a model; None for
            that of `Distillation`.
    """

    loss: keras.losses.Loss
    score: Callable[[np.ndarray, np.ndarray, np.ndarray], float]
    score_name: str
    distance: keras.losses.Loss | None = None

    def evaluate(
        self, model: keras.Model, examples: tuple[np.ndarray, np.ndarray]
    ) -> float:
        """Returns the score of a model on inputs and labels."""
        x, y = examples
        outputs = model.predict(x, batch_size=500, verbose=0)
        return self.score(x, outputs, y)


def accuracy(x: np.ndarray, outputs: np.ndarray, y: np.ndarray) -> float:
    """Returns the fraction of right answers.

    Args:
        x: Not used.
        outputs: Logits `(n, classes)`.
        y: Labels `(n,)`.

    Example:

    >>> logits = np.array([[1.0, 0.0], [0.0, 1.0], [0.2, 0.1]])
    >>> round(accuracy(logits, logits, np.array([0, 1, 1])), 3)
    0.667
    """
    return float((outputs.argmax(-1) == y).mean())


def reconstruction_auc(
    x: np.ndarray, outputs: np.ndarray, y: np.ndarray
) -> float:
    """Returns how well the error of a reconstruction tells anomalies.

    The area under the ROC curve: the probability that an anomaly has a larger
    mean squared error than a normal example.

    Args:
        x: Inputs `(n, features)`.
        outputs: Reconstructions of the same shape.
        y: 1 for anomalies, 0 for others, `(n,)`.

    Example:

    >>> x = np.zeros((4, 1))
    >>> outputs = np.array([[0.1], [0.3], [0.2], [0.4]])
    >>> reconstruction_auc(x, outputs, np.array([0, 0, 1, 1]))
    0.75
    """
    ranks = np.square(outputs - x).mean(-1).argsort().argsort() + 1
    anomalies, others = (y == 1).sum(), (y == 0).sum()
    wins = ranks[y == 1].sum() - anomalies * (anomalies + 1) / 2
    return float(wins / (anomalies * others))


CLASSIFICATION = Task(
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    accuracy,
    "accuracy",
)
ANOMALY_DETECTION = Task(
    keras.losses.MeanSquaredError(),
    reconstruction_auc,
    "AUC",
    distance=keras.losses.MeanSquaredError(),
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network and its data.

    Attributes:
        build: Returns the untrained network.
        load: Returns the first examples of a split as arrays: inputs, and
            targets where the split is "train", labels elsewhere.
        note: What a reader must know of it.
        task: What it is trained for.
        augment: Whether images may be mirrored and transposed.
        num_train: Training examples.
        learning_rate: Of all methods; chosen on ResNet-8's validation split
            where nothing else is said.
    """

    build: Callable[[], keras.Model]
    load: Callable[[str, int], tuple[np.ndarray, np.ndarray]]
    note: str
    task: Task = CLASSIFICATION
    augment: bool = False
    num_train: int = 10_000
    learning_rate: float = 6e-3


@dataclasses.dataclass(frozen=True)
class Splits:
    """Arrays of inputs and targets or labels of the three splits."""

    train: tuple[Any, Any]
    validation: tuple[Any, Any]
    test: tuple[Any, Any]

    @classmethod
    def load(cls, workload: Workload) -> "Splits":
        """Loads a workload's data."""
        counts = {"train": workload.num_train, **NUM_EXAMPLES}
        return cls(
            **{
                split: workload.load(split, count)
                for split, count in counts.items()
            }
        )


def load_shapes(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws images, in [-1, 1]."""
    x, y = zip(*shapes.generate(split, count, image_size=32), strict=True)
    return np.stack(x).astype("float32") / 127.5 - 1.0, np.array(y)


def load_keywords(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes cepstral coefficients."""
    x, y = zip(*keywords.generate(split, count), strict=True)
    return np.stack(x), np.array(y)


def load_machine_sounds(
    split: str, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Makes spectra; those for training are their own targets."""
    x, y = zip(*machine_sounds.generate(split, count), strict=True)
    inputs = np.stack(x)
    return inputs, (inputs if split == "train" else np.array(y))


def _shapes(
    network: str, build: Any, num_train: int = 10_000, **settings: Any
) -> Workload:
    note = (
        f"{network}; synthetic images of shapes, 32x32x3, "
        f"{num_train:,} for training"
    )
    if settings.get("augment"):
        note += ", mirrored and transposed"
    return Workload(build, load_shapes, note, num_train=num_train, **settings)


_resnet8 = functools.partial(
    _shapes,
    "MLPerf Tiny's ResNet-8 with a stem of stride 2 (3.2 M MACs)",
    lambda: networks.resnet8(stem_strides=2),
)


WORKLOADS = {
    "resnet8": _resnet8(),
    "resnet8_15000": _resnet8(num_train=15_000),
    "resnet8_20000": _resnet8(num_train=20_000),
    # Enough data for 99 %, where methods differ less.
    "resnet8_augmented": _resnet8(num_train=20_000, augment=True),
    "resnet20": _shapes(
        "ResNet-20 with a stem of stride 2 (10 M MACs)",
        lambda: networks.resnet20(stem_strides=2),
    ),
    "mobilenet_v1": _shapes(
        "MobileNetV1-0.25",
        lambda: networks.mobilenet_v1(input_shape=(32, 32, 3), classes=10),
    ),
    "vit": _shapes(
        "Vision transformer of 4 blocks, width 48, patches of 8x8",
        lambda: networks.vit(stem_convs=3),
        learning_rate=3e-3,  # 1e-3 was behind on validation.
    ),
    "ds_cnn": Workload(
        networks.ds_cnn,
        load_keywords,
        "MLPerf Tiny's DS-CNN; synthetic keywords, 49x10",
    ),
    "fc_autoencoder": Workload(
        networks.fc_autoencoder,
        load_machine_sounds,
        "MLPerf Tiny's autoencoder; synthetic sounds of machines, 5x128, "
        "judged window by window",
        task=ANOMALY_DETECTION,
        learning_rate=3e-3,  # 6e-3 was behind on validation.
    ),
}
