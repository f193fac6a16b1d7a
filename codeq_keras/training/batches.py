"""A few batches of what a training was given, whatever its form."""

import functools
import itertools
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

# Averages over some hundred samples are as good as those over all.
MAX_BATCHES = 16
MAX_SAMPLES = 1024

_BATCH_SIZE = 32  # Keras's own for arrays.


def require_batches(dataset: Any) -> None:
    """Raises a ValueError for arrays, which are no batches yet."""
    is_arrays = hasattr(dataset, "shape") or isinstance(dataset, Mapping)
    is_pair = isinstance(dataset, tuple)
    if is_arrays or is_pair or not _is_iterable(dataset):
        remedy = "Give a list of batches, as `[x_train[:1000]]`."
        if is_pair:
            remedy = "The first of a pair is enough: `[x_train[:1000]]`."
        raise ValueError(
            "`dataset` must be batches: a list, a `tf.data.Dataset` or a "
            f"`PyDataset`. Received: {type(dataset).__name__}. {remedy}"
        )


def _is_iterable(dataset: Any) -> bool:
    # A `PyDataset` has no `__iter__` of its own.
    return hasattr(dataset, "__iter__") or hasattr(dataset, "__getitem__")


def few_batches(
    x: Any, *, batch_size: int | None, validation_split: float
) -> tuple[Any, Callable[[], Sequence[Any]]]:
    """Returns what to train on, and a function that returns a few batches.

    Only features, of at most `MAX_BATCHES` batches, and no batch that begins
    after `MAX_SAMPLES` samples. What a generator yields is kept as it passes:
    a batch of it comes only once. All else is read once, when first asked for.
    """
    kept: list[Any] = []
    if isinstance(x, types.GeneratorType):
        return _keeping(x, kept), lambda: kept

    def batches() -> Sequence[Any]:
        if not kept:
            kept.extend(_few(_drawn(x, batch_size, validation_split)))
        return kept

    return x, batches


def num_samples(batch: Any) -> int:
    """Returns the number of samples of a batch."""
    return int(keras.tree.flatten(batch)[0].shape[0])


def _few(batches: Iterable[Any]) -> Iterator[Any]:
    count = 0
    for batch in itertools.islice(batches, MAX_BATCHES):
        yield batch
        count += num_samples(batch)
        if count >= MAX_SAMPLES:
            return


def _keeping(generator: Iterator[Any], kept: list[Any]) -> Iterator[Any]:
    """Yields all batches, and copies the features of the first ones."""
    for batch in generator:
        held = sum(map(num_samples, kept))
        if len(kept) < MAX_BATCHES and held < MAX_SAMPLES:
            # The generator may fill the same array anew.
            kept.append(keras.tree.map_structure(_copied, _features(batch)))
        yield batch


def _drawn(
    x: Any, batch_size: int | None, validation_split: float
) -> Iterator[Any]:
    if isinstance(x, keras.utils.PyDataset):
        return (_features(x[int(i)]) for i in _places(x))
    if not _is_arrays(x):
        return map(_features, x)
    return _rows(x, batch_size or _BATCH_SIZE, validation_split)


def _places(dataset: keras.utils.PyDataset) -> Iterable[int]:
    """Evenly spaced: Keras shuffles the batches, so they may be sorted."""
    number = dataset.num_batches
    if number is None:
        return range(MAX_BATCHES)
    return np.linspace(0, number - 1, min(number, MAX_BATCHES)).astype(int)


def _rows(
    arrays: Any, batch_size: int, validation_split: float
) -> Iterator[Any]:
    """Random rows: arrays may be sorted. None of those for validation."""
    number = math.floor(num_samples(arrays) * (1.0 - validation_split))
    order = np.random.default_rng(0).permutation(number)
    for start in range(0, number, batch_size):
        rows = np.sort(order[start : start + batch_size])
        take = functools.partial(_taken, rows=rows)
        yield keras.tree.map_structure(take, arrays)


def _taken(array: Any, rows: np.ndarray) -> Any:
    if hasattr(array, "iloc"):  # Of pandas.
        return array.iloc[rows].to_numpy()
    if hasattr(array, "tocsr"):  # Of SciPy.
        return array.tocsr()[rows].toarray()
    if isinstance(array, np.ndarray):
        return array[rows]
    return keras.ops.take(keras.ops.convert_to_tensor(array), rows, axis=0)


def _copied(array: Any) -> Any:
    if hasattr(array, "tocsr"):
        return array.toarray()
    return np.array(array)


def _features(batch: Any) -> Any:
    features, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    return features


def _is_arrays(x: Any) -> bool:
    """Whether `x` is an array or a structure of arrays, not a dataset."""
    return all(hasattr(leaf, "shape") for leaf in keras.tree.flatten(x))
