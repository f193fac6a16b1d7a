"""Training-step time of quantization-aware training, relative to plain Keras 3.

Each backend runs in a process of its own. There, all variants of a network
take training steps in turns, one step each, so that a noisy machine slows them
alike; a round is a number of such turns, and every ratio is one of the same
round. Read the ratios, not the times. Random data: nothing but time is
measured.

    python benchmarks/overhead.py > benchmarks/results/overhead.md

Variants: plain Keras 3; CoDeQ on the kernels, and on kernels and 8-bit
activations; plain tf_keras and TFMOT's 8-bit default on it (TensorFlow); HGQ2
on convolutions and dense layers, with its default bit widths per weight and
per activation (extra `hgq2`). What does not run here is listed with the
reason.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# Name of the backend: Keras's backend and whether to compile with XLA.
BACKENDS = {
    "tensorflow": ("tensorflow", False),
    "tensorflow-xla": ("tensorflow", True),
    "jax": ("jax", True),
}
NETWORKS = ("resnet20", "resnet8")
PACKAGES = (
    "keras",
    "tensorflow",
    "jax",
    "tf_keras",
    "tensorflow-model-optimization",
    "hgq2",
)
SEED = 0
# The first step traces; the next ones fill caches.
WARM_UP_STEPS = 3
# HGQ2 is several times slower: it takes a step in every fifth turn.
SLOW_EVERY = 5

BASELINE = "Keras 3"
WEIGHTS = "CoDeQ, weights"
BOTH = "CoDeQ, weights + activations"
TFMOT_BASELINE = "tf_keras"
TFMOT = "TFMOT QAT"
HGQ2 = "HGQ2"
VARIANTS = (BASELINE, WEIGHTS, BOTH, TFMOT_BASELINE, TFMOT, HGQ2)


def main() -> None:
    """Measures every backend and network in turn and prints the table."""
    args = parse_args()
    if args.child:
        result = measure(args.child, args)
        args.json.write_text(json.dumps(result))
        return
    record: dict[str, Any] = {"machine": machine(args), "runs": []}
    print(f"# Training-step time\n\n{record['machine']}", flush=True)
    for network in args.networks:
        for backend in args.backends:
            run = run_child(backend, network, args)
            record["runs"].append(run)
            print("\n" + as_markdown(run), flush=True)
            if args.json:  # What is there outlives an interruption.
                args.json.write_text(json.dumps(record, indent=2) + "\n")


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--turns", type=int, default=10, help="per round")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS)
    )
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS)
    )
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)
    )
    parser.add_argument("--json", type=pathlib.Path, help="file to write")
    # How the script calls itself: one backend, the first network.
    parser.add_argument("--child", choices=BACKENDS, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_child(
    backend: str, network: str, args: argparse.Namespace
) -> dict[str, Any]:
    """Measures one network in a process with the backend."""
    keras_backend, _ = BACKENDS[backend]
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "result.json"
        command = [sys.executable, __file__, "--child", backend]
        command += ["--networks", network, "--json", str(output)]
        needed = [BASELINE, *args.variants]
        if TFMOT in needed:
            needed.append(TFMOT_BASELINE)
        command += ["--variants", *needed]
        for name in ("rounds", "turns", "batch_size"):
            command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
        environment = {**os.environ, "KERAS_BACKEND": keras_backend}
        before = os.getloadavg()[0]
        # Only the tables go to the standard output.
        subprocess.run(command, env=environment, stdout=sys.stderr, check=True)
        result = json.loads(output.read_text())
    loads = (before, os.getloadavg()[0])
    return {"network": network, "backend": backend, "loads": loads, **result}


# --- In the child -----------------------------------------------------------


def measure(backend: str, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the milliseconds per step of every round of every variant."""
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(args.batch_size, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, args.batch_size)
    steppers, not_run, first = {}, {}, {}
    for name, make in variants(backend, args.networks[0]).items():
        if name not in args.variants:
            continue
        print(f"{backend}: building {name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            model = make()
            for _ in range(WARM_UP_STEPS):
                model.train_on_batch(x, y)
        except Exception as error:  # Reported in the table, by name.
            not_run[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            steppers[name] = lambda model=model: model.train_on_batch(x, y)
            first[name] = time.perf_counter() - start
    wall: dict[str, list[float]] = {name: [] for name in steppers}
    cpu: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(args.rounds):
        timings = one_round(steppers, args.turns)
        for name, (wall_ms, cpu_ms) in timings.items():
            wall[name].append(wall_ms)
            cpu[name].append(cpu_ms)
    return {
        "wall_ms": wall,
        "cpu_ms": cpu,
        "first_steps_s": first,
        "not_run": not_run,
    }


def one_round(
    steppers: dict[str, Callable[[], Any]], turns: int
) -> dict[str, tuple[float, float]]:
    """Returns mean wall and processor milliseconds per step."""
    spent: dict[str, list[tuple[float, float]]] = {n: [] for n in steppers}
    for turn in range(turns):
        for name, step in steppers.items():
            if name == HGQ2 and turn % SLOW_EVERY:
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            wall = time.perf_counter() - wall
            spent[name].append((1e3 * wall, 1e3 * (time.process_time() - cpu)))
    return {
        name: tuple(np.mean(values, axis=0).tolist())
        for name, values in spent.items()
    }


def variants(backend: str, network: str) -> dict[str, Callable[[], Any]]:
    """Returns what builds and compiles each variant, by its name."""
    import keras
    import networks
    from baselines import hgq2

    import codeq_keras

    keras_backend, jit_compile = BACKENDS[backend]
    keras.utils.set_random_seed(SEED)
    model = getattr(networks, network)()

    def compiled(build: Callable[[Any], Any]) -> Callable[[], Any]:
        def make() -> Any:
            made = build(model)
            made.compile(
                "adam",
                loss=keras.losses.SparseCategoricalCrossentropy(
                    from_logits=True
                ),
                jit_compile=jit_compile,
            )
            return made

        return make

    def quantized(**arguments: Any) -> Callable[[Any], Any]:
        return lambda model: codeq_keras.quantize_model(model, **arguments)

    found = {
        BASELINE: compiled(keras.models.clone_model),
        WEIGHTS: compiled(quantized()),
        BOTH: compiled(quantized(activation_bit_width=8)),
    }
    if keras_backend == "tensorflow":
        found[TFMOT_BASELINE] = lambda: legacy(model, jit_compile, qat=False)
        found[TFMOT] = lambda: legacy(model, jit_compile, qat=True)
    found[HGQ2] = compiled(hgq2.convert)
    return found


def legacy(model: Any, jit_compile: bool, *, qat: bool) -> Any:
    """Returns the network in tf_keras, as it is or with TFMOT's 8 bits."""
    import tf_keras
    from tensorflow_model_optimization.quantization.keras import quantize_model

    from codeq_keras.tfmot import to_tf_keras

    translated = to_tf_keras(model)
    made = quantize_model(translated) if qat else translated
    made.compile(
        "adam",
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return made


# --- The table --------------------------------------------------------------


def machine(args: argparse.Namespace) -> str:
    """Returns versions, hardware and settings in one paragraph."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    return (
        f"{time.strftime('%Y-%m-%d')}; {', '.join(versions)}; Python "
        f"{platform.python_version()}; {processor()}, {os.cpu_count()} cores, "
        "threads as the backends choose (one per core), TF_ENABLE_ONEDNN_OPTS="
        f"{os.environ.get('TF_ENABLE_ONEDNN_OPTS', 'default')}; Adam, batch "
        f"{args.batch_size}, random 32x32x3 images, seed {SEED}; "
        f"{args.rounds} rounds of {args.turns} turns."
    )


def processor() -> str:
    """Returns the processor's name, or the architecture."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [
        line.split(":")[1].strip() for line in lines if "model name" in line
    ]
    return names[0] if names else platform.machine()


def as_markdown(run: dict[str, Any]) -> str:
    """Returns the table of one backend and network."""
    before, after = run["loads"]
    lines = [
        f"## {run['network']}, {run['backend']}",
        "",
        f"Load average {before:.1f} before, {after:.1f} after.",
        "",
        "| variant | ms/step, median (p10-p90) | to Keras 3, median (p10-p90) "
        "| to Keras 3, processor time | to its own float | first steps |",
        "|---|---|---|---|---|---|",
    ]
    wall, cpu = run["wall_ms"], run["cpu_ms"]
    for name, values in wall.items():
        own = TFMOT_BASELINE if name in (TFMOT, TFMOT_BASELINE) else BASELINE
        to_own = "not measured"
        if own in wall:
            to_own = f"{np.median(ratios(wall, name, own)):.3f}"
        lines.append(
            f"| {name} | {spread(values, 1)} "
            f"| {spread(ratios(wall, name, BASELINE), 3)} "
            f"| {np.median(ratios(cpu, name, BASELINE)):.3f} "
            f"| {to_own} "
            f"| {run['first_steps_s'][name]:.0f} s |"
        )
    lines += [f"| {n} | not run: {why} |" for n, why in run["not_run"].items()]
    return "\n".join(lines)


def ratios(
    times: dict[str, list[float]], name: str, baseline: str
) -> np.ndarray:
    """Returns the ratio of every round."""
    return np.array(times[name]) / np.array(times[baseline])


def spread(values: Any, digits: int) -> str:
    """Returns the median with the 10th and 90th percentile."""
    p10, median, p90 = np.percentile(values, [10, 50, 90])
    return f"{median:.{digits}f} ({p10:.{digits}f}-{p90:.{digits}f})"


if __name__ == "__main__":
    main()
