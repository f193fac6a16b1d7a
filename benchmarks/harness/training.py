"""Training: shuffled batches, one fit, and the float network to start from."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from harness.workload import Splits, Workload

BATCH_SIZE = 64
# Epochs and learning rate, as a part of the workload's, of the cosines that
# train the float network, enough that fine-tuning gains little.
FLOAT_CYCLES = ((60, 0.5), (36, 1.0))
FLOAT_SEED = 1000
_PADDING = 4  # Pixels around an image before a crop.

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class Batches(keras.utils.PyDataset):
    """Shuffled batches of one size, or all examples in order.

    The seed decides the order and the augmentation; what is left of an epoch
    is dropped. Without a seed the last batch is smaller. `augment` may change
    the inputs that it gets. An epoch has `length` batches, None for all.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        batch_size: int = BATCH_SIZE,
        seed: int | None,
        augment: Augment | None = None,
        length: int | None = None,
    ) -> None:
        super().__init__()
        self.x, self.y, self.augment, self.length = x, y, augment, length
        self.batch_size, self.is_shuffled = batch_size, seed is not None
        self.rng = np.random.default_rng(seed)
        self.order = np.arange(len(x))
        self.on_epoch_end()

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        if self.length is not None:
            return self.length
        if not self.is_shuffled:
            return math.ceil(len(self.x) / self.batch_size)
        return max(1, len(self.x) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs and labels of one batch."""
        start = index * self.batch_size
        chosen = self.order[start : start + self.batch_size]
        x = self.x[chosen]
        if self.augment is not None:
            x = self.augment(x, self.rng)
        return x, self.y[chosen]

    def on_epoch_end(self) -> None:
        """Shuffles anew."""
        if self.is_shuffled:
            self.order = self.rng.permutation(len(self.x))


def mirror_and_transpose(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flips square images along both axes and the diagonal, at random.

    For pictures without an up and a left, such as `shapes`.
    """
    vertical, horizontal, transposed = rng.random((3, len(x))) < 0.5
    x[vertical] = x[vertical, ::-1]
    x[horizontal] = x[horizontal, :, ::-1]
    x[transposed] = x[transposed].swapaxes(1, 2)
    return x


def crop_and_mirror(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves images by up to 4 pixels and mirrors half, as usual on CIFAR-10."""
    height, width = x.shape[1:3]
    margin = (_PADDING, _PADDING)
    padded = np.pad(x, ((0, 0), margin, margin, (0, 0)))
    corners = rng.integers(0, 2 * _PADDING + 1, (len(x), 2))
    for index, (top, left) in enumerate(corners):
        x[index] = padded[index, top : top + height, left : left + width]
    mirrored = rng.random(len(x)) < 0.5
    x[mirrored] = x[mirrored, :, ::-1]
    return x


def fit(
    model: keras.Model,
    batches: keras.utils.PyDataset,
    optimizer: keras.Optimizer,
    loss: keras.losses.Loss,
    *,
    epochs: int,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    validation: keras.utils.PyDataset | None = None,
) -> None:
    """Compiles and trains; with accuracies if there is a validation split."""
    is_judged = validation is not None
    model.compile(optimizer, loss, metrics=["accuracy"] if is_judged else [])
    model.fit(
        batches,
        epochs=epochs,
        callbacks=list(callbacks),
        validation_data=validation,
        verbose=2 if is_judged else 0,
    )


@dataclasses.dataclass(frozen=True)
class Training:
    """The training that all methods share: AdamW on a cosine."""

    workload: Workload
    split: Splits
    epochs: int
    seed: int

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * len(self.batches())

    def batches(self) -> Batches:
        """Returns the training data."""
        augment = mirror_and_transpose if self.workload.augment else None
        return Batches(*self.split.train, seed=self.seed, augment=augment)

    def fit(self, model: keras.Model, callbacks: Iterable[Any] = ()) -> None:
        """Compiles and trains a model."""
        cosine = keras.optimizers.schedules.CosineDecay
        rate = cosine(self.workload.learning_rate, self.num_steps)
        optimizer, loss = keras.optimizers.AdamW(rate), self.workload.goal.loss
        data, epochs = self.batches(), self.epochs
        fit(model, data, optimizer, loss, epochs=epochs, callbacks=callbacks)

    def evaluate(self, model: keras.Model, split: str) -> float:
        """Returns the score on a split, "validation" or "test"."""
        return self.workload.goal.evaluate(model, getattr(self.split, split))


def float_network(
    workload: Workload,
    split: Splits,
    path: Path,
    cycles: tuple[tuple[int, float], ...] | None = None,
    seed: int = FLOAT_SEED,
) -> keras.Model:
    """Returns the float network of a workload: trained once, kept in a file."""
    if not path.exists():
        keras.utils.set_random_seed(seed)
        net = workload.build()
        for epochs, part in cycles or FLOAT_CYCLES:
            rate = part * workload.learning_rate
            slower = dataclasses.replace(workload, learning_rate=rate)
            Training(slower, split, epochs, seed).fit(net)
        save(net, path)
    return keras.saving.load_model(path, compile=False)


def save(model: keras.Model, path: Path) -> None:
    """Saves a model in one step: no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.keras")
    model.save(partial)
    partial.replace(path)
