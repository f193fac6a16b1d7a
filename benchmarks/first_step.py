"""Time of the first training step, tracing included, relative to float.

Each repeat starts one fresh process per variant, in turns, so that a noisy
machine slows all alike. CPU time is printed beside wall time: on a shared
machine it is the steadier of the two. Random weights and zeros as data:
nothing but time is measured.

    python benchmarks/first_step.py [--model MobileNet] [--repeats 3]
"""

import argparse
import os
import platform
import subprocess
import sys
import time

import keras
import numpy as np

import codeq_keras

VARIANTS = ("float", "CoDeQ 4 bit", "CoDeQ 4 bit, budget")
MODELS = {
    "MobileNet": {"input_shape": (32, 32, 3), "alpha": 0.25},
    "NASNetMobile": {"input_shape": (32, 32, 3)},
}


def main() -> None:
    """Measures and prints medians, spread and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="MobileNet")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(*first_step(args.model, args.variant))
        return
    print(
        f"keras {keras.__version__}, backend {keras.backend.backend()}, Python "
        f"{platform.python_version()}, {platform.machine()}, {os.cpu_count()} "
        f"cores; {args.model} {MODELS[args.model]}, {args.repeats} repeats"
    )
    times = [
        [in_fresh_process(args.model, variant) for variant in VARIANTS]
        for _ in range(args.repeats)
    ]
    # Repeat, variant, (wall, CPU).
    print_result(np.array(times))


def in_fresh_process(model: str, variant: str) -> list[float]:
    """Returns the wall and CPU seconds of one first step."""
    command = [sys.executable, __file__, "--model", model, "--variant", variant]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()[-2:]]


def first_step(name: str, variant: str) -> tuple[float, float]:
    """Times one training step, from an untraced model on."""
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(
        weights=None, classes=10, **MODELS[name]
    )
    if variant != "float":
        model = codeq_keras.quantize_model(model)
    if variant.endswith("budget"):
        model.regularizer.set_budget("relative_bops", start=0.12, target=0.05)
    model.compile("adam", loss="sparse_categorical_crossentropy")
    x, y = np.zeros((2, 32, 32, 3), "float32"), np.zeros(2)

    wall, cpu = time.perf_counter(), time.process_time()
    model.train_on_batch(x, y)
    return time.perf_counter() - wall, time.process_time() - cpu


def print_result(times: np.ndarray) -> None:
    """Prints a line per variant."""
    for index, variant in enumerate(VARIANTS):
        wall, cpu = np.median(times[:, index], axis=0)
        ratio = times[:, index] / times[:, 0]
        low, high = ratio.min(axis=0), ratio.max(axis=0)
        middle = np.median(ratio, axis=0)
        print(
            f"{variant:<20} wall {wall:6.1f} s, ratio {middle[0]:.2f} "
            f"({low[0]:.2f} to {high[0]:.2f}); CPU {cpu:6.1f} s, ratio "
            f"{middle[1]:.2f} ({low[1]:.2f} to {high[1]:.2f})"
        )


if __name__ == "__main__":
    main()
