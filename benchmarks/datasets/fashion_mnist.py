"""Fashion-MNIST from its own files, as a `tensorflow-datasets` builder."""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

# A folder with the four files of https://github.com/zalandoresearch/fashion-mnist
FOLDER_VARIABLE = "FASHION_MNIST"
# Where Debian's package `dataset-fashion-mnist` installs them.
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_PARTS = {"train": "train", "test": "t10k"}
# The third byte of an IDX file is the type, here unsigned bytes; the fourth is
# the number of axes.
_UINT8 = 0x08


class FashionMnistFiles(tfds.core.GeneratorBasedBuilder):
    """Fashion-MNIST from a folder; nothing is downloaded.

    The builder `fashion_mnist` of `tensorflow-datasets` has the same images and
    labels, and downloads them. `folder()` says which files are read.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(28, 28, 1), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(names=CLASSES),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # The files are shuffled.
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator]:
        found = folder()
        if found is None:
            raise FileNotFoundError(
                f"Expected the files of Fashion-MNIST in {DEBIAN_FOLDER} or in "
                f"the folder that the variable {FOLDER_VARIABLE} names. "
                "Received: neither. Install `dataset-fashion-mnist`, or take "
                "the builder 'fashion_mnist', which downloads them."
            )
        return {
            split: self._generate_examples(found, part)
            for split, part in _PARTS.items()
        }

    def _generate_examples(self, source: Path, part: str) -> Iterator:
        images = read_idx(source / f"{part}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{part}-labels-idx1-ubyte.gz")
        for index, (image, label) in enumerate(
            zip(images, labels.tolist(), strict=True)
        ):
            yield index, {"image": Image.fromarray(image), "label": label}


def folder() -> Path | None:
    """Returns the folder with the files, the named one first; None if none."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named is not None:
        return Path(named)
    return DEBIAN_FOLDER if DEBIAN_FOLDER.is_dir() else None


def read_idx(path: Path) -> np.ndarray:
    """Returns the array of unsigned bytes in a gzipped IDX file."""
    with gzip.open(path) as file:
        data = file.read()
    num_axes = data[3] if len(data) > 3 else 0
    if data[:3] != bytes((0, 0, _UINT8)):
        raise ValueError(
            "Expected an IDX file of unsigned bytes. "
            f"Received: path={str(path)!r}, which begins with {data[:4]!r}."
        )
    start = 4 + 4 * num_axes
    shape = np.frombuffer(data[4:start], ">u4")
    return np.frombuffer(data[start:], np.uint8).reshape(shape)
