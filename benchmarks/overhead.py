"""Training-step time of weight quantization, relative to the float model.

Float and quantized ResNet-8 (MLPerf Tiny, 16 filters) train in turns in one
run, so that a noisy machine slows both alike; read the ratio, not the times.
Random data: nothing but time is measured.

    python benchmarks/overhead.py [--rounds 30] [--batch-size 64] [--jit]
"""

import argparse
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable

import keras
import numpy as np

import codeq_keras

STEPS_PER_TURN = 10
WARM_UP_TURNS = 2


def main() -> None:
    """Measures and prints medians, spread and ratios."""
    args = parse_args()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    num_samples = STEPS_PER_TURN * args.batch_size
    x = rng.normal(size=(num_samples, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, num_samples)

    model = resnet8()
    variants: dict[str, Callable[[], float]] = {
        "float": turn(model, x, y, args),
        "CoDeQ 4 bit": turn(codeq_keras.quantize_model(model), x, y, args),
    }
    # `fit` would trace anew for every budget, and only steps are to be timed.
    budgeted = codeq_keras.quantize_model(model)
    budgeted.regularizer.set_budget("relative_bops", start=0.12, target=0.05)
    variants["CoDeQ 4 bit, budget"] = turn(budgeted, x, y, args)

    times: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(WARM_UP_TURNS + args.rounds):
        for name, run in variants.items():
            elapsed = run()
            if index >= WARM_UP_TURNS:
                times[name].append(elapsed / STEPS_PER_TURN)
    print_result(times, args)


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--jit", action="store_true", help="compile with XLA")
    parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
    return parser.parse_args()


def turn(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    args: argparse.Namespace,
) -> Callable[[], float]:
    """Returns a function that times STEPS_PER_TURN training steps."""
    model.compile(
        "adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True if args.jit else "auto",
    )

    batches = np.split(x, STEPS_PER_TURN), np.split(y, STEPS_PER_TURN)

    def run() -> float:
        start = time.perf_counter()
        for batch in zip(*batches, strict=True):
            model.train_on_batch(*batch)
        return time.perf_counter() - start

    return run


def resnet8() -> keras.Model:
    """Returns the image classification model of MLPerf Tiny."""
    layers = keras.layers

    def conv(x: keras.KerasTensor, filters: int, size: int, strides: int = 1):  # noqa: ANN202
        return layers.Conv2D(filters, size, strides=strides, padding="same")(x)

    def normalized(x: keras.KerasTensor, activation: bool = True):  # noqa: ANN202
        x = layers.BatchNormalization()(x)
        return layers.ReLU()(x) if activation else x

    inputs = keras.Input((32, 32, 3))
    x = normalized(conv(inputs, 16, 3))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = normalized(conv(x, filters, 3, strides))
        y = normalized(conv(y, filters, 3), activation=False)
        if strides > 1:
            x = conv(x, filters, 1, strides)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def print_result(
    times: dict[str, list[float]], args: argparse.Namespace
) -> None:
    """Prints a table, and writes JSON if asked to."""
    print(
        f"keras {keras.__version__}, backend {keras.backend.backend()}, "
        f"jit_compile={True if args.jit else 'auto'}, Python "
        f"{platform.python_version()}, {platform.machine()}, "
        f"{os.cpu_count()} cores, seed 0; ResNet-8, batch {args.batch_size}, "
        f"{args.rounds} interleaved rounds of {STEPS_PER_TURN} steps"
    )
    base = np.array(times["float"])
    rows = []
    for name, values in times.items():
        ratio = np.array(values) / base
        row = {
            "variant": name,
            "median_ms": 1e3 * float(np.median(values)),
            "p90_ms": 1e3 * float(np.percentile(values, 90)),
            "median_ratio": float(np.median(ratio)),
            "p10_ratio": float(np.percentile(ratio, 10)),
            "p90_ratio": float(np.percentile(ratio, 90)),
        }
        rows.append(row)
        print(
            f"{name:<20} median {row['median_ms']:7.1f} ms/step, p90 "
            f"{row['p90_ms']:7.1f}; ratio to float: median "
            f"{row['median_ratio']:.3f} (p10 {row['p10_ratio']:.3f}, p90 "
            f"{row['p90_ratio']:.3f})"
        )
    if args.output:
        args.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
