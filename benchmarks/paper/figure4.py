"""Sparsity against lambda in the paper's own mode, beside the paper's Fig. 4.

Trains a network from scratch on `level_grid="paper"`, 4 bits, once per
lambda_dz of Fig. 4a, and twice more with weight decay on the kernels, as in
Fig. 4b. The paper trained ResNet-20 on CIFAR-10 for 100 epochs; here a
shorter training has a proportionally higher learning rate for the logits, so
that the penalty alone would shrink them by the same total factor,
`exp(-407 * lambda)`: the slope that Fig. 4a begins with, held for 100 epochs.
Read the shape of the curves, not the digits.

    python benchmarks figure4 [--dataset cifar10 --model resnet20]

Writes `figure4.md`, `.json` and `.png` into `--output`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import networks
import numpy as np
from datasets import DATASETS, load
from harness import cli, provenance, results, training
from harness.training import Batches
from harness.workload import CLASSIFICATION, Arrays

import codeq_keras
from paper.recipes import MOMENTUM, sgd

# lambda_dz, weight decay, final mean sparsity and final mean logit, read off
# Fig. 4a; where there is weight decay off Fig. 4b, which has one lambda_dz.
FIG_4B_PENALTY = 0.0025
FIGURE = (
    (0.0, 0.0, 0.01, 3.0),
    (0.0025, 0.0, 0.24, 1.37),
    (0.005, 0.0, 0.36, 1.11),
    (0.0075, 0.0, 0.42, 1.02),
    (0.01, 0.0, 0.47, 0.95),
    (FIG_4B_PENALTY, 0.0025, 0.28, 1.33),
    (FIG_4B_PENALTY, 0.005, 0.45, 1.29),
)

# Fig. 4a: d ln(logit) / d epoch at the start, per unit of lambda_dz; epochs.
DECAY_PER_EPOCH = 4.07
PAPER_EPOCHS = 100

LEARNING_RATE = 0.1  # Of the weights.
NUM_LOGS = 25
NUM_TEST_IMAGES = 2000
SEED = 0

COLUMNS = (
    *("lambda_dz", "weight decay", "zeros, mean", "zeros, paper"),
    *("logit, mean", "logit, paper", "test accuracy"),
)
NETWORKS = {
    # A stem of stride 4: a sixteenth of MLPerf Tiny's arithmetic.
    "resnet8-small": lambda: networks.resnet8(stem_strides=4),
    "resnet8": networks.resnet8,
    "resnet20": networks.resnet20,
}


def main(argv: Sequence[str]) -> None:
    """Trains all settings and writes the results as they come."""
    ten = [name for name, entry in DATASETS.items() if entry.num_classes == 10]
    args = cli.parse(
        "figure4",
        __doc__,
        argv,
        smoke={"steps": 25, "limit": 640},
        choices={"dataset": ten, "model": NETWORKS},
        dataset="shapes",
        model="resnet8-small",
        steps=1000,
        limit=int,
    )
    names = ("train", "test")
    splits = {name: load(args.dataset, name, args.limit) for name in names}
    rows: list[dict[str, Any]] = []
    for penalty, decay, *paper in FIGURE[: 1 if args.smoke else None]:
        found = train_once(penalty, decay, splits, args)
        setting = {"penalty": penalty, "weight_decay": decay, "paper": paper}
        rows.append(setting | found)
        print(as_table([rows[-1]]).splitlines()[-1], flush=True)
        write_results(rows, args)  # What is there outlives an interruption.


def train_once(
    penalty: float,
    weight_decay: float,
    splits: dict[str, Arrays],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Returns the curves, the final means and the test accuracy."""
    keras.utils.set_random_seed(SEED)
    qmodel = codeq_keras.quantize_model(
        NETWORKS[args.model](),
        codeq_keras.CoDeQConfig(bit_width=4, level_grid="paper"),
        regularizer=codeq_keras.CompressionRegularizer(
            # PyTorch's weight decay adds `lambda * theta` to the gradient;
            # the penalty `p * theta ** 2` adds twice that.
            dead_zone_penalty=penalty / 2
        ),
    )
    curves: dict[str, list[float]] = {"sparsity": [], "logit": []}

    def record(*_: Any) -> None:
        """Keeps the means over the kernels, as the paper's figure does."""
        kernels = codeq_keras.report(qmodel).layers
        quantizers = [k.quantizer for k in qmodel.quantized_kernels]
        logits = [abs(float(q.dead_zone_logit)) for q in quantizers]
        curves["sparsity"].append(float(np.mean([k.sparsity for k in kernels])))
        curves["logit"].append(float(np.mean(logits)))

    record()  # The start.
    training.fit(
        qmodel,
        # Each row of the curves is the same number of random batches.
        Batches(*splits["train"], seed=SEED, length=args.steps // NUM_LOGS),
        optimizer(weight_decay, args.steps),
        CLASSIFICATION.loss,
        epochs=NUM_LOGS,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=record)],
    )
    x, y = (array[:NUM_TEST_IMAGES] for array in splits["test"])
    accuracy = CLASSIFICATION.evaluate(qmodel, (x, y))
    return {**curves, "test_accuracy": accuracy}


def optimizer(weight_decay: float, steps: int) -> keras.Optimizer:
    """Returns the paper's optimizer: the logits have a rate of their own."""
    total_decay = DECAY_PER_EPOCH * PAPER_EPOCHS
    logit_rate = total_decay * (1 - MOMENTUM) / steps
    cosine = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    weights = sgd(cosine, weight_decay)
    logits = keras.optimizers.SGD(logit_rate, momentum=MOMENTUM)
    paths = keras.optimizers.OptimizerMap(weights, {".*_logit/.*": logits})
    return keras.optimizers.MultiOptimizer(paths)


def as_table(rows: list[dict[str, Any]]) -> str:
    """Returns the table of final values beside the paper's."""
    table = []
    for row in rows:
        zeros, logit = row["paper"]
        ends = (row["sparsity"][-1], zeros, row["logit"][-1], logit)
        table.append(
            [
                f"{row['penalty']:g}",
                f"{row['weight_decay']:g}",
                *(f"{end:.2f}" for end in ends),
                f"{100 * row['test_accuracy']:.1f} %",
            ]
        )
    return results.table(COLUMNS, table)


def write_results(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Writes the table, the numbers and the plot."""
    is_synthetic = DATASETS[args.dataset].is_synthetic
    header = (
        f"{provenance.line(seeds=[SEED])}; {args.model} on {args.dataset}"
        f"{' (synthetic)' if is_synthetic else ''}, tested on "
        f"{NUM_TEST_IMAGES} images, from scratch, {args.steps} steps of "
        f"{training.BATCH_SIZE} images, SGD {LEARNING_RATE:g} with momentum "
        f"{MOMENTUM:g} and a cosine for the weights, a constant rate for the "
        f"logits. The paper: ResNet-20 on CIFAR-10, {PAPER_EPOCHS} epochs."
    )
    path = args.output / "figure4"
    results.write_page(
        path.with_suffix(".md"),
        "The paper's Fig. 4 on our data",
        header,
        "Means over the kernels, as in the figure; the paper's values are "
        "read off it. `python benchmarks figure4`",
        as_table(rows),
        f"![curves]({path.name}.png)",
    )
    record = {"header": header, "rows": rows}
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    plot(rows, path.with_suffix(".png"), args.steps)


def plot(rows: list[dict[str, Any]], path: Path, steps: int) -> None:
    """Draws sparsity and logit over the steps; the paper's ends as crosses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6))
    axes = figure.subplots(2, 2, sharex=True)
    fig_4a = [row for row in rows if not row["weight_decay"]]
    fig_4b = [row for row in rows if row["penalty"] == FIG_4B_PENALTY]
    for column, chosen, name, title in (
        (0, fig_4a, "penalty", "lambda_dz"),
        (1, fig_4b, "weight_decay", "weight decay"),
    ):
        for row in chosen:
            for line, key in enumerate(("sparsity", "logit")):
                axis, label = axes[line, column], f"{row[name]:g}"
                done = np.linspace(0, steps, len(row[key]))
                [curve] = axis.plot(done, row[key], label=label)
                end = row["paper"][line]
                axis.plot(steps, end, "x", color=curve.get_color())
        if chosen:
            axes[0, column].legend(title=title)
        axes[1, column].set_xlabel("step (x: the paper's final value)")
    axes[0, 0].set_ylabel("mean sparsity")
    axes[1, 0].set_ylabel("mean dead-zone logit")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
