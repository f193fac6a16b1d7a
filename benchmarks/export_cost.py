"""Time and memory of quantizing and exporting, relative to the plain converter.

Each measurement is a process of its own that builds the network, and then
either runs TensorFlow's converter (full-integer int8, calibrated on the
samples) or `quantize_model` and `export` (which convert on the same samples,
write the trained integers, and prove the file by running it). The two take
turns, so that a noisy machine slows both alike; read the ratios. Time starts
after the imports and the building of the network; memory is the peak of the
process and its children together, what they share counted once (PSS).

    python benchmarks/export_cost.py [--networks MobileNetV2 ResNet50]
        [--size 96] [--samples 100] [--rounds 3]
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

import psutil

NETWORKS = ("MobileNetV2", "ResNet50")
WAYS = ("plain converter", "quantize_model + export")
POLL_S = 0.05


def main() -> None:
    """Measures in turns and prints medians and ratios."""
    args = parse_args()
    print(
        f"tensorflow {version('tensorflow')}, keras {version('keras')}, "
        f"Python {platform.python_version()}, {platform.machine()}, "
        f"{os.cpu_count()} cores, seed 0; input {args.size}x{args.size}, "
        f"{args.samples} samples, {args.rounds} rounds"
    )
    results = {}
    for network in args.networks:
        rounds: dict[str, list[tuple[float, float]]] = {w: [] for w in WAYS}
        for _ in range(args.rounds):
            for way in WAYS:
                rounds[way].append(measure(network, way, args))
        results[network] = rounds
        print_result(network, rounds)
        if args.output:
            args.output.write_text(json.dumps(results, indent=2) + "\n")


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON to write")
    return parser.parse_args()


def measure(
    network: str, way: str, args: argparse.Namespace
) -> tuple[float, float]:
    """Returns the seconds, and the peak of the memory in MiB."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=child, args=(sender, network, way, args.size, args.samples)
    )
    process.start()
    peak = [0]
    watcher = threading.Thread(target=watch, args=(process, peak))
    watcher.start()
    process.join()
    watcher.join()
    if process.exitcode:
        raise SystemExit(f"{network}, {way}: see the error above.")
    return receiver.recv(), peak[0] / 2**20


def watch(process: multiprocessing.Process, peak: list[int]) -> None:
    """Keeps the largest memory of a process and its children."""
    root = psutil.Process(process.pid)
    while process.is_alive():
        total = 0
        try:
            members = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for member in members:
            try:
                total += member.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
        peak[0] = max(peak[0], total)
        time.sleep(POLL_S)


def child(
    sender: "multiprocessing.connection.Connection",
    network: str,
    way: str,
    size: int,
    num_samples: int,
) -> None:
    """Runs in a process of its own; sends the seconds."""
    import keras
    import numpy as np
    import tensorflow  # noqa: F401, not a part of the time.

    import codeq_keras
    import tflite_export

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, network)(
        weights=None, input_shape=(size, size, 3)
    )
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(num_samples, size, size, 3)).astype("float32")
    start = time.perf_counter()
    if way == WAYS[0]:
        convert_plainly(model, samples)
    else:
        qmodel = codeq_keras.quantize_model(model)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.tflite")
            tflite_export.export(qmodel, path, representative_dataset=samples)
    sender.send(time.perf_counter() - start)


def convert_plainly(model: "keras.Model", samples: "np.ndarray") -> bytes:  # noqa: F821
    """What TensorFlow's documentation says for full-integer int8."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([s[None]] for s in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return converter.convert()


def print_result(
    network: str, rounds: dict[str, list[tuple[float, float]]]
) -> None:
    """Prints the medians and the ratios of one network."""
    for way, values in rounds.items():
        seconds, mebibytes = zip(*values, strict=True)
        print(
            f"{network:<12} {way:<24} median {statistics.median(seconds):6.1f} "
            f"s (from {min(seconds):.1f} to {max(seconds):.1f}), "
            f"{statistics.median(mebibytes):,.0f} MiB"
        )
    plain, ours = (rounds[way] for way in WAYS)
    ratios = [
        (o[0] / p[0], o[1] / p[1]) for p, o in zip(plain, ours, strict=True)
    ]
    time_ratio, memory_ratio = map(statistics.median, zip(*ratios, strict=True))
    print(
        f"{network:<12} ratio: time {time_ratio:.2f}, memory {memory_ratio:.2f}"
    )


if __name__ == "__main__":
    main()
