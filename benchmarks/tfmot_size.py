"""Size of a TFMOT model: CoDeQ against TFMOT's own 8-bit scheme.

One small convolutional network, trained in float on scikit-learn's digits,
is fine-tuned for the same number of steps with each scheme, seed by seed.
"int8" is a file with dense int8 weights, where only the weights differ, and
"auto" the storage that `tflite_export` chooses for LiteRT, sparse where that
is smaller. gzip and Vela are those of the int8 file.
Bits per weight are those of the weight stream that Vela, the compiler of the
Ethos-U, writes; left out where Vela is not installed.

    python benchmarks/tfmot_size.py [--seeds 3] [--epochs 20]

Last run, 2026-11-22, TensorFlow 2.21, TFMOT 0.8.1, Vela 5.2, seeds 0 to 2:

    mean of 3 seeds        accuracy  agree  zeros   int8   auto   gzip  Vela
    TFMOT default, 8 bits     99.3%  99.9%   0.0%  46216  46216  38347  8.11
    CoDeQ 4 bits, 60 % 0      99.0% 100.0%  60.2%  46816  42187  18610  2.54
    CoDeQ 4 bits, 80 % 0      99.1% 100.0%  80.1%  46816  33856  13001  1.52

On the 540 test samples one sample is 0.19 points.
"""

import argparse
import gzip
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tensorflow_model_optimization.quantization.keras import (
    quantize_annotate_model,
    quantize_apply,
)

import tflite_export
from codeq_keras import CoDeQConfig
from codeq_keras.tfmot import CoDeQScheme, CompressionBudget, report
from tflite_export.runtime import interpreter

layers = tf_keras.layers

BATCH_SIZE = 32
FLOAT_EPOCHS = 20


def main() -> None:
    """Trains, exports and prints one row per scheme."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    rows: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(arguments.seeds):
        for name, row in run(seed, arguments.epochs).items():
            rows.setdefault(name, []).append(row)
    title = f"mean of {arguments.seeds} seeds"
    print(f"{title:<21}  accuracy  agree  zeros   int8   auto   gzip  Vela")
    for name, values in rows.items():
        accuracy, agreement, zeros, size, auto, zipped, bits = np.mean(
            values, 0
        )
        print(
            f"{name:<21} {accuracy:9.1%} {agreement:6.1%} {zeros:6.1%}"
            f" {size:6.0f} {auto:6.0f} {zipped:6.0f} {bits:5.2f}"
        )


def run(seed: int, epochs: int) -> dict[str, tuple[float, ...]]:
    """Returns the row of each scheme for one seed."""
    tf_keras.utils.set_random_seed(seed)
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    x, x_test, y, y_test = train_test_split(
        images, labels, test_size=0.3, random_state=0, stratify=labels
    )
    model = fit(network(), x, y, FLOAT_EPOCHS)
    annotated = quantize_annotate_model(model)
    default = fit(quantize_apply(annotated), x, y, epochs)
    rows = {"TFMOT default, 8 bits": default_row(default, x_test, y_test)}
    for name, config, sparsity in (
        ("CoDeQ 4 bits, 60 % 0", CoDeQConfig(bit_width=4), 0.6),
        ("CoDeQ 4 bits, 80 % 0", CoDeQConfig(bit_width=4), 0.8),
    ):
        qat_model = quantize_apply(annotated, scheme=CoDeQScheme(config))
        budget = CompressionBudget(sparsity=sparsity)
        fit(qat_model, x, y, epochs, budget)
        rows[name] = codeq_row(qat_model, x_test, y_test)
    return rows


def network() -> tf_keras.Model:
    """Returns a network of 38,000 weights."""
    return tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(32, 3, padding="same", strides=2, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(64, 3, padding="same", strides=2),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(48, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def fit(
    model: tf_keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    epochs: int,
    *callbacks: tf_keras.callbacks.Callback,
) -> tf_keras.Model:
    """Trains a model along a cosine and returns it."""
    steps = epochs * -(-len(x) // BATCH_SIZE)
    rate = tf_keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(
        tf_keras.optimizers.Adam(rate), "sparse_categorical_crossentropy"
    )
    model.fit(
        x, y, BATCH_SIZE, epochs=epochs, verbose=0, callbacks=list(callbacks)
    )
    return model


def default_row(
    model: tf_keras.Model, x: np.ndarray, y: np.ndarray
) -> tuple[float, ...]:
    """Converts as TFMOT's guide does."""

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 1))])
    def predict(images: tf.Tensor) -> tf.Tensor:
        return model(images, training=False)

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [predict.get_concrete_function()], model
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    data = converter.convert()
    return row(data, model, x, y, zeros=0.0, auto_bytes=len(data))


def codeq_row(
    model: tf_keras.Model, x: np.ndarray, y: np.ndarray
) -> tuple[float, ...]:
    """Exports with proof."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        sizes = {}
        for storage in ("auto", "int8"):
            result = tflite_export.export(
                model, path, weight_storage=storage, representative_dataset=x
            )
            if not result.verification.codes_equal:
                raise RuntimeError("Expected exact codes. Received: others.")
            sizes[storage] = result.size_bytes
        zeros, auto_bytes = report(model).sparsity, sizes["auto"]
        return row(path.read_bytes(), model, x, y, zeros, auto_bytes)


def row(
    data: bytes,
    model: tf_keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    zeros: float,
    auto_bytes: int,
) -> tuple[float, ...]:
    """Returns the numbers of one row, in the order of the header."""
    [outputs] = interpreter.predict(data, [x], [])
    classes = outputs.argmax(-1)
    return (
        float(np.mean(classes == y)),
        float(np.mean(classes == model.predict(x, verbose=0).argmax(-1))),
        zeros,
        len(data),
        auto_bytes,
        len(gzip.compress(data, 9, mtime=0)),
        vela_bits_per_weight(data),
    )


def vela_bits_per_weight(data: bytes) -> float:
    """Returns the bits of Vela's weight stream per weight, or NaN."""
    if importlib.util.find_spec("ethosu") is None:
        return float("nan")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.tflite").write_bytes(data)
        process = subprocess.run(
            [
                *(sys.executable, "-m", "ethosu.vela", "model.tflite"),
                *("--accelerator-config", "ethos-u55-128"),
                "--verbose-weights",
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    sizes = dict(
        re.findall(
            r"(Original|NPU Encoded) Weights Size +(.+) KiB", process.stdout
        )
    )
    return 8 * float(sizes["NPU Encoded"]) / float(sizes["Original"])


if __name__ == "__main__":
    main()
