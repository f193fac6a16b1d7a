"""Training-step time of quantization-aware training, relative to plain Keras 3.

    python benchmarks training_time

Each backend runs in a process of its own. There, all variants of a network
take training steps in turns, one step each, so that a noisy machine slows them
alike; a round is a number of such turns, and every ratio is one of the same
round. Read the ratios, not the times. The first steps include building and
tracing. Random data: nothing but time is measured.

Variants: plain Keras 3; CoDeQ on the kernels, to a budget, to the same budget
with channel gates, and on kernels and 8-bit activations; plain tf_keras and
TFMOT's 8-bit default on it (TensorFlow); HGQ2 on convolutions and dense layers,
with its default bit widths per weight and per activation (extra `hgq2`). "To
its base" is the ratio to what a variant adds to: of channels the budget without
them, of TFMOT tf_keras, of all others plain Keras 3. What does not run here is
listed with the reason.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import networks
import numpy as np
from baselines import hgq2
from harness import cli, processes, provenance, results
from harness.workload import CLASSIFICATION

from codeq_keras import quantize_model

# Name of the backend: Keras's backend and whether to compile with XLA.
BACKENDS = {
    "tensorflow": ("tensorflow", False),
    "tensorflow-xla": ("tensorflow", True),
    "jax": ("jax", True),
}
TFMOT_PACKAGES = ("tf_keras", "tensorflow-model-optimization")
PACKAGES = ("tensorflow", "jax", *TFMOT_PACKAGES, "hgq2")
SEED = 0
# The first step traces; the next ones fill caches.
WARM_UP_STEPS = 3
OUTER = (10, 90)  # Percentiles.
# HGQ2 is several times slower: it takes a step in every fifth turn.
SLOW_EVERY = 5

BASELINE = "Keras 3"
WEIGHTS = "CoDeQ, weights"
BUDGET = "CoDeQ, weights, to a budget"
CHANNELS = "CoDeQ, weights and channels, to a budget"
BOTH = "CoDeQ, weights + activations"
TFMOT_BASELINE = "tf_keras"
TFMOT = "TFMOT QAT"
HGQ2 = "HGQ2"
COLUMNS = (
    *("variant", "ms/step, median (p10-p90)", "to Keras 3, median (p10-p90)"),
    *("to Keras 3, processor time", "to its base, median (p10-p90)"),
    "first steps",
)
VARIANTS = (
    *(BASELINE, WEIGHTS, BUDGET, CHANNELS, BOTH),
    *(TFMOT_BASELINE, TFMOT, HGQ2),
)
# What a variant adds to, and is measured with: plain Keras for the others.
BASES = {
    CHANNELS: BUDGET,
    TFMOT: TFMOT_BASELINE,
    TFMOT_BASELINE: TFMOT_BASELINE,
}
SMOKE = {"rounds": 2, "turns": 1, "batch_size": 2, "models": ["resnet8"]}
SMOKE |= {"backends": ["tensorflow"], "variants": [BASELINE, WEIGHTS]}


def main(argv: Sequence[str]) -> None:
    """Measures every backend and network in turn; writes as results come."""
    args = cli.parse(
        "training_time",
        __doc__,
        argv,
        smoke=SMOKE,
        choices={"backends": BACKENDS, "variants": VARIANTS},
        models=["resnet20", "resnet8"],
        backends=list(BACKENDS),
        variants=list(VARIANTS),
        rounds=25,
        turns=10,
        batch_size=64,
    )
    sections: list[str] = []
    for network in args.models:
        for backend in args.backends:
            before = os.getloadavg()[0]
            environment = {"KERAS_BACKEND": BACKENDS[backend][0]}
            measured, _ = processes.run_alone(
                measure, backend, network, args, environment=environment
            )
            measured["loads"] = before, os.getloadavg()[0]
            run = {"network": network, "backend": backend, **measured}
            sections.append(as_markdown(run))
            print(sections[-1], flush=True)
            results.write_page(
                args.output / "training_time.md",
                "Training-step time",
                f"{provenance.line(*PACKAGES, seeds=[SEED])}; threads as the "
                "backends choose (one per core), TF_ENABLE_ONEDNN_OPTS="
                f"{os.environ.get('TF_ENABLE_ONEDNN_OPTS', 'default')}; Adam, "
                f"batch {args.batch_size}, random 32x32x3 images; "
                f"{args.rounds} rounds of {args.turns} turns.",
                *sections,
            )


def measure(backend: str, network: str, args: Any) -> dict[str, Any]:
    """Returns the milliseconds per step of every round of every variant."""
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(args.batch_size, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, args.batch_size)
    bases = [BASES[name] for name in args.variants if name in BASES]
    needed = {BASELINE, *args.variants, *bases}
    steppers, not_run, first = {}, {}, {}
    for name, make in variants(backend, network).items():
        if name not in needed:
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
    rounds = [one_round(steppers, args.turns) for _ in range(args.rounds)]
    return {
        "wall_ms": {name: [r[name][0] for r in rounds] for name in steppers},
        "cpu_ms": {name: [r[name][1] for r in rounds] for name in steppers},
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
    means = {name: np.mean(values, axis=0) for name, values in spent.items()}
    return {name: tuple(mean.tolist()) for name, mean in means.items()}


def variants(backend: str, network: str) -> dict[str, Callable[[], Any]]:
    """Returns what builds and compiles each variant, by its name."""
    keras_backend, jit_compile = BACKENDS[backend]
    keras.utils.set_random_seed(SEED)
    model = getattr(networks, network)()

    def compiled(build: Callable[..., Any], **arguments: Any) -> Any:
        made = build(model, **arguments)
        made.compile("adam", CLASSIFICATION.loss, jit_compile=jit_compile)
        return made

    def to_a_budget(model: Any, multiple: int | None = None) -> Any:
        made = quantize_model(model, channel_multiple=multiple)
        made.regularizer.set_budget("relative_bops", start=0.12, target=0.05)
        if made.channel_gates is not None:
            made.channel_gates.release()
        return made

    found = {
        BASELINE: partial(compiled, keras.models.clone_model),
        WEIGHTS: partial(compiled, quantize_model),
        BUDGET: partial(compiled, to_a_budget),
        CHANNELS: partial(compiled, to_a_budget, multiple=8),
        BOTH: partial(compiled, quantize_model, activation_bit_width=8),
        TFMOT_BASELINE: partial(legacy, model, jit_compile, qat=False),
        TFMOT: partial(legacy, model, jit_compile, qat=True),
        HGQ2: partial(compiled, hgq2.convert),
    }
    if keras_backend != "tensorflow":
        del found[TFMOT_BASELINE], found[TFMOT]
    return found


def legacy(model: Any, jit_compile: bool, *, qat: bool) -> Any:
    """Returns the network in tf_keras, as it is or with TFMOT's 8 bits."""
    import tf_keras
    from tensorflow_model_optimization.quantization import keras as tfmot

    from codeq_keras.tfmot import to_tf_keras

    translated = to_tf_keras(model)
    made = tfmot.quantize_model(translated) if qat else translated
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile("adam", loss, jit_compile=jit_compile)
    return made


def as_markdown(run: dict[str, Any]) -> str:
    """Returns the section of one backend and network."""
    before, after = run["loads"]
    wall, cpu = run["wall_ms"], run["cpu_ms"]
    rows = []
    for name, values in wall.items():
        base = BASES.get(name, BASELINE)
        to_keras, to_base = ratios(wall, name, BASELINE), "not measured"
        if base in wall:
            to_base = results.median_and_range(
                ratios(wall, name, base), 3, OUTER
            )
        rows.append(
            (
                name,
                results.median_and_range(values, 1, OUTER),
                results.median_and_range(to_keras, 3, OUTER),
                f"{np.median(ratios(cpu, name, BASELINE)):.3f}",
                to_base,
                f"{run['first_steps_s'][name]:.0f} s",
            )
        )
    rows += [(name, f"not run: {why}") for name, why in run["not_run"].items()]
    title = f"## {run['network']}, {run['backend']}"
    loads = f"Load average {before:.1f} before, {after:.1f} after."
    return "\n\n".join([title, loads, results.table(COLUMNS, rows)])


def ratios(
    times: dict[str, list[float]], name: str, baseline: str
) -> np.ndarray:
    """Returns the ratio of every round."""
    return np.array(times[name]) / np.array(times[baseline])
