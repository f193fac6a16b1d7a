"""in_chunks: the random streams of the synthetic data sets."""

from collections.abc import Callable, Iterator

import numpy as np

Make = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def in_chunks(
    make: Make, split: str, count: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the first examples of a split, always the same ones.

    The size of a chunk is a part of the recipe: each has its own random
    stream, so another size would give other data.

    Args:
        make: Makes one chunk, examples and their labels, from a source of
            everything random.
        split: Name of the split; each has random streams of its own.
        count: Number of examples.

    Example:

    >>> def make(rng):
    ...     return rng.normal(size=(2, 1)), np.array([0, 1])
    >>> [label for _, label in in_chunks(make, "train", 3)]
    [0, 1, 0]
    """
    start = 0
    while start < count:
        rng = np.random.default_rng([*split.encode(), start])
        examples, labels = make(rng)
        size = min(len(labels), count - start)
        yield from zip(examples[:size], labels[:size].tolist(), strict=True)
        start += len(labels)
