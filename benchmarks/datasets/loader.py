"""Data sets by name, as NumPy arrays or as batches."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

# `machine_sounds` only registers its builder.
from datasets import (
    fashion_mnist,
    keywords,
    machine_sounds,  # noqa: F401
    shapes,
)
from datasets.mfcc import mfcc

_OWN_SPLITS = {s: s for s in ("train", "validation", "test")}


def _image_input(example: dict[str, Any]) -> np.ndarray:
    """Pixels as float32 in [-1, 1]."""
    return example["image"].astype("float32") / 127.5 - 1.0


@dataclasses.dataclass(frozen=True)
class DatasetEntry:
    """Where a data set comes from.

    Attributes:
        builder: Its name for `tensorflow-datasets`.
        splits: The builder's split for `train`, `validation` and `test`.
            Validation is for choosing, test for reporting.
        num_classes: Number of classes.
        network_input: From one example to the network's input; None where the
            images have several sizes, which is for `load_batches`.
        generate: Yields the first examples of a split of a synthetic data set,
            which a program of ours makes; None for others.
    """

    builder: str
    splits: dict[str, str]
    num_classes: int
    network_input: Callable[[dict[str, Any]], np.ndarray] | None
    generate: Callable[[str, int], Iterator[dict[str, Any]]] | None = None

    @property
    def is_synthetic(self) -> bool:
        """Whether a program of ours makes it."""
        return self.generate is not None


def _shapes(image_size: int) -> DatasetEntry:
    def generate(split: str, count: int) -> Iterator[dict[str, Any]]:
        for x, y in shapes.generate(split, count, image_size=image_size):
            yield {"image": x, "label": y}

    name = f"shapes/{image_size}"
    return DatasetEntry(name, _OWN_SPLITS, 10, _image_input, generate)


def _keywords(split: str, count: int) -> Iterator[dict[str, Any]]:
    for x, y in keywords.generate(split, count):
        yield {"mfcc": x, "label": y}


def _fashion_mnist(example: dict[str, Any]) -> np.ndarray:
    """Pixels as float32 in [0, 1]."""
    return example["image"].astype("float32") / 255.0


DATASETS = {
    "shapes": _shapes(32),
    "shapes96": _shapes(96),
    "keywords": DatasetEntry(
        "keywords", _OWN_SPLITS, 12, lambda e: e["mfcc"], _keywords
    ),
    "fashion_mnist": DatasetEntry(
        "fashion_mnist",
        {
            "train": "train[:-5000]",
            "validation": "train[-5000:]",
            "test": "test",
        },
        10,
        _fashion_mnist,
    ),
    "cifar10": DatasetEntry(
        "cifar10",
        {
            "train": "train[:90%]",
            "validation": "train[90%:]",
            "test": "test",
        },
        10,
        _image_input,
    ),
    "speech_commands": DatasetEntry(
        "speech_commands", _OWN_SPLITS, 12, lambda e: mfcc(e["audio"])
    ),
    # The labels of its test images are not public.
    "imagenet2012": DatasetEntry(
        "imagenet2012",
        {
            "train": "train[:98%]",
            "validation": "train[98%:]",
            "test": "validation",
        },
        1000,
        None,
    ),
}


def load(
    name: str,
    split: str,
    count: int | None = None,
    *,
    data_dir: str | os.PathLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a split as arrays; prepares the data set if need be.

    Args:
        name: A key of `DATASETS` but `"imagenet2012"`.
        split: `"train"`, `"validation"` or `"test"`.
        count: Number of examples, from the start; those of synthetic data
            sets are then made on the spot. None for all.
        data_dir: Folder of the prepared data sets; by default
            `~/tensorflow_datasets`.

    Returns:
        A float32 array, images in [-1, 1] (Fashion-MNIST: [0, 1]) or cepstral
        coefficients as they are, and an int64 array of labels.

    Raises:
        ValueError: If the name or split is not known, or the data set does
            not fit in memory.
    """
    entry = _entry(name, split)
    if entry.network_input is None:
        raise ValueError(
            "`load` returns data sets that fit in memory. Received: "
            f"name={name!r}. Use `load_batches({name!r}, ...)`."
        )
    if count is not None and entry.generate is not None:
        examples = list(entry.generate(split, count))
    else:
        source = _source(entry, split, data_dir)
        examples = [source[i] for i in range(len(source))[:count]]
    x = np.stack([entry.network_input(example) for example in examples])
    y = np.array([example["label"] for example in examples], "int64")
    return x, y


def load_batches(
    name: str,
    split: str,
    *,
    batch_size: int,
    image_size: int = 224,
    data_dir: str | os.PathLike | None = None,
    workers: int = 1,
) -> "ImageBatches":
    """Returns a split of images as a Keras data set that reads as it goes.

    Args:
        name: A key of `DATASETS` with images.
        split: `"train"` (shuffled, with random crops and flips),
            `"validation"` or `"test"` (in order, the centre of the image).
        batch_size: Images per batch.
        image_size: Height and width of the network's input in pixels.
        data_dir: Folder of the prepared data sets; by default
            `~/tensorflow_datasets`. For `"imagenet2012"` the archives must
            lie in its `downloads/manual`.
        workers: Threads that read and crop.

    Raises:
        ValueError: If the name or split is not known.
    """
    source = _source(_entry(name, split), split, data_dir)
    return ImageBatches(
        source,
        batch_size=batch_size,
        image_size=image_size,
        augment=split == "train",
        workers=workers,
    )


class ImageBatches(keras.utils.PyDataset):
    """Batches of `(images, labels)` from images of any size.

    Args:
        source: Sequence of `{"image": uint8 array, "label": int}`.
        batch_size: Images per batch; the last one may be smaller.
        image_size: Height and width after cropping and resizing, in pixels.
        augment: Shuffle, crop 8 to 100 % of the area at random, flip. If
            False, the centre of the image scaled to 8/7 of `image_size`.
        seed: Seed of the shuffling and cropping.
        **kwargs: Passed to `keras.utils.PyDataset`, such as `workers`.
    """

    def __init__(
        self,
        source: Sequence[dict[str, Any]],
        *,
        batch_size: int,
        image_size: int,
        augment: bool,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.batch_size = batch_size
        self.image_size = image_size
        self.augment = augment
        self.seed = seed
        self.epoch = 0
        self._order = self._shuffled()

    def __len__(self) -> int:
        """Number of batches."""
        return math.ceil(len(self.source) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Images of shape `(n, size, size, 3)` in [-1, 1], and labels."""
        rng = np.random.default_rng([self.seed, self.epoch, index])
        start = index * self.batch_size
        chosen = self._order[start : start + self.batch_size]
        examples = [self.source[int(i)] for i in chosen]
        images = np.stack([self._crop(e["image"], rng) for e in examples])
        labels = np.array([e["label"] for e in examples], "int64")
        return images.astype("float32") / 127.5 - 1.0, labels

    def on_epoch_end(self) -> None:
        """Shuffles anew."""
        self.epoch += 1
        self._order = self._shuffled()

    def _shuffled(self) -> np.ndarray:
        if not self.augment:
            return np.arange(len(self.source))
        rng = np.random.default_rng([self.seed, self.epoch])
        return rng.permutation(len(self.source))

    def _crop(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        if self.augment:
            box = _random_box(height, width, rng)
        else:
            side = min(height, width) * 7 / 8
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
        size = (self.image_size, self.image_size)
        resized = Image.fromarray(image).resize(
            size, Image.Resampling.BILINEAR, box=box
        )
        pixels = np.asarray(resized)
        flip = self.augment and rng.random() < 0.5
        return pixels[:, ::-1] if flip else pixels


def _random_box(
    height: int, width: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A part of the image of random area and of aspect ratio 3/4 to 4/3."""
    area = height * width * rng.uniform(0.08, 1.0)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    box_width = min(math.sqrt(area * ratio), width)
    box_height = min(math.sqrt(area / ratio), height)
    left = rng.uniform(0, width - box_width)
    top = rng.uniform(0, height - box_height)
    return left, top, left + box_width, top + box_height


def _entry(name: str, split: str) -> DatasetEntry:
    if name not in DATASETS:
        raise ValueError(
            f"`name` must be one of {sorted(DATASETS)}. Received: name={name!r}"
        )
    entry = DATASETS[name]
    if split not in entry.splits:
        raise ValueError(
            f"`split` must be one of {sorted(entry.splits)}. "
            f"Received: split={split!r}"
        )
    return entry


def _source(
    entry: DatasetEntry, split: str, data_dir: str | os.PathLike | None
) -> Sequence[dict[str, Any]]:
    """Random access to a split, prepared first if it is not there yet.

    Fashion-MNIST is prepared from files where there are any, by our builder.
    """
    name = entry.builder
    if name == "fashion_mnist" and fashion_mnist.folder() is not None:
        name = "fashion_mnist_files"
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return builder.as_data_source(split=entry.splits[split])
