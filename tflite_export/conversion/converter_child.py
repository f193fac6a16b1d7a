"""Converts a SavedModel to a `.tflite` file, in a child process.

The script imports nothing of the package, and starts with TensorFlow alone.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SAVED_MODEL = "saved_model"
NAMES = "names.json"
RESULT = "model.tflite"


def _representative_dataset(
    folder: Path,
) -> Callable[[], Iterator[dict[str, Any]]]:
    names = json.loads((folder / NAMES).read_text())
    samples = [np.load(folder / f"{i}.npy") for i in range(len(names))]

    def dataset() -> Iterator[dict[str, Any]]:
        for row in zip(*samples, strict=True):
            yield {
                name: value[None]
                for name, value in zip(names, row, strict=True)
            }

    return dataset


def convert_saved_model(folder: Path, dtype: str) -> None:
    """Converts the SavedModel of a folder to `"int8"` or `"float32"`."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(folder / SAVED_MODEL)
    )
    if dtype == "int8":
        _ask_for_int8(converter, folder)
    (folder / RESULT).write_bytes(converter.convert())


def _ask_for_int8(converter: Any, folder: Path) -> None:
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    # A model that fake-quantizes itself brings its ranges, and no samples.
    if (folder / NAMES).exists():
        converter.representative_dataset = _representative_dataset(folder)
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        ]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8


if __name__ == "__main__":
    convert_saved_model(Path(sys.argv[1]), sys.argv[2])
