"""Batches: arrays as training data, shuffled and augmented from a seed."""

import math
from collections.abc import Callable

import keras
import numpy as np

_PADDING = 4  # Pixels around an image before a crop.

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class Batches(keras.utils.PyDataset):
    """Shuffled batches of one size, or all examples in order.

    Args:
        x: Inputs.
        y: Labels.
        batch_size: Examples per batch.
        seed: Seed of the order and the augmentation; what is left of an epoch
            is dropped. None for all examples in order, the last batch smaller.
        augment: From a batch of inputs, which it may change, to another.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        batch_size: int,
        seed: int | None,
        augment: Augment | None = None,
    ) -> None:
        super().__init__()
        self.x, self.y, self.augment = x, y, augment
        self.batch_size, self.is_shuffled = batch_size, seed is not None
        self.rng = np.random.default_rng(seed)
        self.order = np.arange(len(x))
        self.on_epoch_end()

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
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
    padding = (_PADDING, _PADDING)
    padded = np.pad(x, ((0, 0), padding, padding, (0, 0)))
    corners = rng.integers(0, 2 * _PADDING + 1, (len(x), 2))
    x = np.stack(
        [
            image[top : top + height, left : left + width]
            for image, (top, left) in zip(padded, corners, strict=True)
        ]
    )
    mirrored = rng.random(len(x)) < 0.5
    x[mirrored] = x[mirrored, :, ::-1]
    return x
