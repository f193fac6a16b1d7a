"""Time and memory of quantizing and exporting, relative to the plain converter.

    python benchmarks export_time [--models MobileNetV2 ResNet50] [--rounds 3]

Each measurement is a process of its own that builds the network, and then
either runs TensorFlow's converter (full-integer int8, calibrated on the
samples) or `quantize_model` and `export` (which convert on the same samples,
write the trained integers, and prove the file by running it). The two take
turns, so that a noisy machine slows both alike; read the ratios. Time starts
after the imports and the building of the network; memory is the peak of the
process and its children together, what they share counted once (PSS).
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from harness import cli, processes, provenance, results

import codeq_keras
import tflite_export

WAYS = ("plain converter, full-integer int8", "`quantize_model` + `export`")
MEASURES = ("time, s", "peak memory (PSS), MiB")
COLUMNS = ("network", "way", *(f"{name}, median (range)" for name in MEASURES))
SEED = 0


def main(argv: Sequence[str]) -> None:
    """Measures in turns and writes medians and ratios."""
    args = cli.parse(
        "export_time",
        __doc__,
        argv,
        smoke={"models": ["MobileNet"], "size": 32, "samples": 4, "rounds": 1},
        models=["MobileNetV2", "ResNet50"],  # Of `keras.applications`.
        size=96,
        samples=100,
        rounds=3,
    )
    rows: list[Sequence[str]] = []
    for network in args.models:
        rounds = [
            [
                processes.run_alone(
                    time_once, network, way, args.size, args.samples
                )
                for way in WAYS
            ]
            for _ in range(args.rounds)
        ]
        rows += rows_of(network, rounds)
        results.write_page(
            args.output / "export_time.md",
            "Time and memory of `quantize_model` and `export`, relative to "
            "TensorFlow's converter",
            f"{provenance.line('tensorflow', seeds=[SEED])}; random weights; "
            f"input {args.size}x{args.size}, {args.samples} samples; "
            f"{args.rounds} rounds in turns. `python benchmarks export_time`",
            results.table(COLUMNS, rows),
        )
    print(results.table(COLUMNS, rows))


def time_once(network: str, way: str, size: int, num_samples: int) -> float:
    """Returns the seconds of one way; runs in a process of its own."""
    import tensorflow  # noqa: F401, not a part of the time.

    keras.utils.set_random_seed(SEED)
    model = getattr(keras.applications, network)(
        weights=None, input_shape=(size, size, 3)
    )
    rng = np.random.default_rng(SEED)
    samples = rng.normal(size=(num_samples, size, size, 3)).astype("float32")
    start = time.perf_counter()
    if way == WAYS[0]:
        convert_plainly(model, samples)
    else:
        qmodel = codeq_keras.quantize_model(model)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.tflite")
            tflite_export.export(qmodel, path, representative_dataset=samples)
    return time.perf_counter() - start


def convert_plainly(model: Any, samples: Any) -> bytes:
    """What TensorFlow's documentation says for full-integer int8."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([s[None]] for s in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return converter.convert()


def rows_of(
    network: str, rounds: Sequence[Sequence[tuple[float, float]]]
) -> list[tuple[str, ...]]:
    """Returns a row for each way, and one of the ratios of each round."""
    plain, ours = np.array(rounds).swapaxes(0, 1)
    rows = []
    for way, values, digits in zip(
        (*WAYS, "ratio"), (plain, ours, ours / plain), (1, 1, 2), strict=True
    ):
        cells = [results.median_and_range(c, digits) for c in values.T]
        rows.append((network, way, *cells))
    return rows
