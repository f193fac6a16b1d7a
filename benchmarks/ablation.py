"""What each extra of a budgeted training is worth, on a small network.

    python benchmarks/ablation.py run --seeds 0 1 2
    python benchmarks/ablation.py report

Every finished run is one line of `results/ablation.jsonl`, and a run that has
a line is not repeated. All runs start from one float network and see the same
number of batches; a seed decides their order, so that rows are compared seed
by seed. Extras that the package does not have are in `ablation_extras.py`.
"""

import argparse
import dataclasses
import datetime
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import ablation_extras as extras
import accuracy
import keras
import numpy as np
from accuracy import BATCH_SIZE, RESULTS
from batches import Batches
from workloads import CLASSIFICATION, Splits, load_keywords

import codeq_keras

NUM_EXAMPLES = {"train": 6_000, "validation": 1, "test": 4_000}
FLOAT_EPOCHS = 15
EPOCHS = 8
BUDGET = 0.02
LEARNING_RATE = 3e-3
CONSTANT_RATE = 1e-3

# Of the training data, for BatchNorm re-estimation.
_STATISTICS_BATCHES = 16


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        label: Its name in the table.
        callbacks: From the float network and the training data to callbacks
            beside the budget.
        prepare: Changes the quantized model before the training.
        quantizer: Class of the quantizers, None for the package's.
        constant_rate: Whether the weights keep one learning rate.
        baseline: The variant that it is compared with.
        is_float: Whether the float network is trained on instead.
    """

    label: str
    callbacks: Callable[[Any, Any], list[Any]] = lambda net, train: []
    prepare: Callable[[Any], None] = lambda model: None
    quantizer: type | None = None
    constant_rate: bool = False
    baseline: str = "plain"
    is_float: bool = False


def statistics(net: Any, train: Batches) -> list[Any]:
    """BatchNorm re-estimation on fixed batches of the training data."""
    batches = [train[i][0] for i in range(min(len(train), _STATISTICS_BATCHES))]
    return [codeq_keras.BatchNormReestimation(batches)]


def teacher(weight: float, temperature: float) -> Callable[..., list[Any]]:
    """Distillation from the float network."""
    return lambda net, train: [
        codeq_keras.Distillation(net, weight=weight, temperature=temperature)
    ]


def oscillation(strength: float) -> Callable[..., list[Any]]:
    """The oscillation regularizer."""
    return lambda net, train: [extras.OscillationRegularizer(strength)]


VARIANTS = {
    "float": Variant("float network, trained on", is_float=True),
    "plain": Variant("budget only (logits on a cosine)"),
    "logits_constant": Variant(
        "logits at a constant rate", prepare=extras.keep_logit_rate
    ),
    "logits_frozen": Variant(
        "logits on a cosine, frozen for the last 20 %",
        prepare=extras.freeze_logits,
    ),
    "batch_norm": Variant("BatchNorm re-estimation", callbacks=statistics),
    "distillation": Variant(
        "distillation, T = 2, weight 1", callbacks=teacher(1.0, 2.0)
    ),
    "distillation_4": Variant(
        "distillation, T = 4, weight 1", callbacks=teacher(1.0, 4.0)
    ),
    "learned_bound": Variant(
        "learned A (LSQ)", quantizer=extras.LearnedBoundQuantizer
    ),
    "oscillation_weak": Variant(
        "oscillation regularizer, 0.001", callbacks=oscillation(1e-3)
    ),
    "oscillation_strong": Variant(
        "oscillation regularizer, 0.01", callbacks=oscillation(1e-2)
    ),
    "constant": Variant("weights at a constant rate", constant_rate=True),
    "constant_batch_norm": Variant(
        "weights at a constant rate, BatchNorm re-estimation",
        callbacks=statistics,
        constant_rate=True,
        baseline="constant",
    ),
}


def main() -> None:
    """Runs what is missing, or writes the report."""
    args = parse_args()
    path = args.results / "ablation.jsonl"
    if args.command == "report":
        report = table(accuracy.read(path))
        path.with_suffix(".md").write_text(report)
        return
    done = {(line["variant"], line["seed"]) for line in accuracy.read(path)}
    split = Splits(**{s: load_keywords(s, n) for s, n in NUM_EXAMPLES.items()})
    net = float_network(split)
    for seed in args.seeds:
        for name in args.variants:
            if (name, seed) not in done:
                line = execute(name, seed, net, split)
                accuracy.append(path, line)
                print(json.dumps(line), flush=True)


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    return parser.parse_args()


def build() -> keras.Model:
    """Returns an untrained network of three convolutions."""
    layers = keras.layers
    inputs = x = keras.Input((49, 10, 1))
    for filters, strides in ((16, 2), (32, 2), (32, 1)):
        x = layers.Conv2D(
            filters, 3, strides=strides, padding="same", use_bias=False
        )(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(12)(x), name="small_cnn")


def float_network(split: Splits) -> keras.Model:
    """Returns the float network that all runs start from."""
    keras.utils.set_random_seed(1000)
    net = build()
    train = Batches(*split.train, batch_size=BATCH_SIZE, seed=1000)
    fit(net, train, [], epochs=FLOAT_EPOCHS, constant_rate=False)
    return net


def fit(
    model: keras.Model,
    train: Batches,
    callbacks: list[Any],
    *,
    epochs: int,
    constant_rate: bool,
) -> None:
    """Compiles and trains."""
    rate = CONSTANT_RATE
    if not constant_rate:
        rate = keras.optimizers.schedules.CosineDecay(
            LEARNING_RATE, epochs * len(train)
        )
    model.compile(
        keras.optimizers.AdamW(rate),
        CLASSIFICATION.loss,
    )
    model.fit(train, epochs=epochs, callbacks=callbacks, verbose=0)


def execute(
    name: str, seed: int, net: keras.Model, split: Splits
) -> dict[str, Any]:
    """Carries out a run and returns its line."""
    begin = time.monotonic()
    variant = VARIANTS[name]
    keras.utils.set_random_seed(seed)
    train = Batches(*split.train, batch_size=BATCH_SIZE, seed=seed)
    line = {"variant": name, "seed": seed}
    settings = {"epochs": EPOCHS, "constant_rate": variant.constant_rate}
    if variant.is_float:
        model = keras.models.clone_model(net)
        model.set_weights(net.get_weights())
        fit(model, train, [], **settings)
    else:
        model = quantized(variant, net)
        budget = codeq_keras.CompressionBudget(relative_bops=BUDGET)
        callbacks = variant.callbacks(
            net, Batches(*split.train, batch_size=BATCH_SIZE, seed=seed)
        )
        fit(model, train, [budget, *callbacks], **settings)
        line["relative_bops"] = codeq_keras.report(model).relative_bops
    return {
        **line,
        "test_accuracy": CLASSIFICATION.evaluate(model, split.test),
        "seconds": round(time.monotonic() - begin, 1),
        "date": datetime.date.today().isoformat(),
        "versions": accuracy.versions(),
    }


def quantized(variant: Variant, net: keras.Model) -> codeq_keras.QuantizedModel:
    """Returns the model that a variant trains."""
    config = codeq_keras.CoDeQConfig(bit_width=4, level_grid="uniform")
    kind = variant.quantizer or codeq_keras.DeadZoneQuantizer
    model = codeq_keras.quantize_model(net, config, quantizer=kind)
    variant.prepare(model)
    return model


def table(lines: list[dict[str, Any]]) -> str:
    """Returns the report in Markdown."""
    results = {(line["variant"], line["seed"]): line for line in lines}
    rows = []
    for name, variant in VARIANTS.items():
        mine = [line for line in lines if line["variant"] == name]
        if not mine:
            continue
        values = [100 * line["test_accuracy"] for line in mine]
        differences = [
            100 * line["test_accuracy"]
            - 100 * results[variant.baseline, line["seed"]]["test_accuracy"]
            for line in mine
            if (variant.baseline, line["seed"]) in results
        ]
        compared = name not in (variant.baseline, "float") and differences
        bops = [100 * line.get("relative_bops", 1) for line in mine]
        rows.append(
            f"| {variant.label} | {spread(values)} | "
            f"{spread(differences, '+') if compared else ''} | "
            f"{np.mean(bops):.2f} % | {len(mine)} |"
        )
    dates = sorted(line["date"] for line in lines)
    versions = ", ".join(f"{k} {v}" for k, v in lines[0]["versions"].items())
    return _REPORT.format(
        rows="\n".join(rows),
        date=dates[-1],
        versions=versions,
        budget=100 * BUDGET,
        epochs=EPOCHS,
        train=NUM_EXAMPLES["train"],
        test=NUM_EXAMPLES["test"],
        error=100 * (0.8 * 0.2 / NUM_EXAMPLES["test"]) ** 0.5,
    )


def spread(values: list[float], sign: str = "") -> str:
    """Returns mean and standard deviation over the seeds."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else float("nan")
    return f"{np.mean(values):{sign}.2f} ± {deviation:.2f}"


_REPORT = """\
# What each extra is worth, on a small network

Small on purpose: three convolutions (14 k weights, 0.56 M multiply-accumulates)
on synthetic keywords (49x10), {train:,} of them for training and {test:,} for
the test, {epochs} epochs from one float network, 4 bits on the uniform grid,
budget {budget:g} % relative BOPs, AdamW on a cosine. It shows what is large;
extras within its noise may still pay on larger networks, or harm.
Mean ± standard deviation over the seeds. The difference is to the row "budget
only" with the same seed, for the last row to the one above it. One standard
error of the test set is {error:.1f} points, but all rows share its images.

| | test accuracy, % | difference, points | relative BOPs | seeds |
|---|---|---|---|---|
{rows}

{date}, {versions}; x86-64, 2 shared cores.
`python benchmarks/ablation.py run`, then `report`.
"""


if __name__ == "__main__":
    main()
