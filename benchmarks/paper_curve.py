"""Sparsity against lambda in the paper's own mode, beside the paper's Fig. 4.

Trains a network from scratch on `level_grid="paper"`, 4 bits, once per
lambda_dz of Fig. 4a, and twice more with weight decay on the kernels, as in
Fig. 4b. The paper trained ResNet-20 on CIFAR-10 for 100 epochs; here a
shorter training has a proportionally higher learning rate for the logits, so
that the penalty alone would shrink them by the same total factor,
`exp(-407 * lambda)`: the slope that Fig. 4a begins with, held for 100 epochs.
Read the shape of the curves, not the digits.

    python benchmarks/paper_curve.py [--dataset cifar10 --network resnet20]

Writes `paper_curve.md`, `.json` and `.png` into `benchmarks/results`.
"""

import argparse
import json
import os
import pathlib
import platform
import time
from typing import Any

import keras
import matplotlib
import networks
import numpy as np
from data import DATASETS, load

import codeq_keras

# lambda_dz, final mean sparsity and final mean logit of Fig. 4a, read off it.
FIG_4A = (
    (0.0, 0.01, 3.0),
    (0.0025, 0.24, 1.37),
    (0.005, 0.36, 1.11),
    (0.0075, 0.42, 1.02),
    (0.01, 0.47, 0.95),
)
# The same for the weight decay of Fig. 4b, at its one lambda_dz.
FIG_4B = ((0.0025, 0.28, 1.33), (0.005, 0.45, 1.29))
FIG_4B_PENALTY = 0.0025

# Fig. 4a: d ln(logit) / d epoch at the start, per unit of lambda_dz; epochs.
DECAY_PER_EPOCH = 4.07
PAPER_EPOCHS = 100

MOMENTUM = 0.9
LEARNING_RATE = 0.1  # Of the weights.
BATCH_SIZE = 64
NUM_LOGS = 25
NUM_TEST_IMAGES = 2000
SEED = 0

NETWORKS = {
    # A stem of stride 4: a sixteenth of MLPerf Tiny's arithmetic.
    "resnet8-small": lambda: networks.resnet8(stem_strides=4),
    "resnet8": networks.resnet8,
    "resnet20": networks.resnet20,
}


def main() -> None:
    """Trains all settings and writes the results as they come."""
    args = parse_args()
    train = load(args.dataset, "train")
    test = load(args.dataset, "test")
    settings = [
        {"penalty": penalty, "weight_decay": 0.0, "paper": [zeros, logit]}
        for penalty, zeros, logit in FIG_4A
    ] + [
        {
            "penalty": FIG_4B_PENALTY,
            "weight_decay": weight_decay,
            "paper": [zeros, logit],
        }
        for weight_decay, zeros, logit in FIG_4B
    ]
    rows = []
    for setting in settings:
        start = time.perf_counter()
        rows.append({**setting, **train_once(setting, train, test, args)})
        print(as_markdown([rows[-1]]).splitlines()[-1], end="  ")
        print(f"({time.perf_counter() - start:.0f} s)", flush=True)
        write_results(rows, args)  # What is there outlives an interruption.


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    choices = [k for k, entry in DATASETS.items() if entry.num_classes == 10]
    parser.add_argument("--dataset", choices=choices, default="shapes")
    parser.add_argument(
        "--network", choices=list(NETWORKS), default="resnet8-small"
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path(__file__).parent / "results",
        help="folder for the results",
    )
    return parser.parse_args()


def train_once(
    setting: dict[str, Any],
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Returns the curves, the final means and the test accuracy."""
    keras.utils.set_random_seed(SEED)
    qmodel = codeq_keras.quantize_model(
        NETWORKS[args.network](),
        codeq_keras.CoDeQConfig(bit_width=4, level_grid="paper"),
        regularizer=codeq_keras.CompressionRegularizer(
            # PyTorch's weight decay adds `lambda * theta` to the gradient;
            # the penalty `p * theta ** 2` adds twice that.
            dead_zone_penalty=setting["penalty"] / 2
        ),
    )
    qmodel.compile(
        optimizer(setting["weight_decay"], args.steps),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    curves = Curves()
    qmodel.fit(
        RandomBatches(*train, steps=args.steps // NUM_LOGS),
        epochs=NUM_LOGS,
        verbose=0,
        callbacks=[curves],
    )
    x, y = (array[:NUM_TEST_IMAGES] for array in test)
    # Called once, so tracing would take longer.
    predicted = keras.ops.convert_to_numpy(qmodel(x)).argmax(-1)
    return {
        "sparsity": curves.sparsity,
        "logit": curves.logit,
        "test_accuracy": float(np.mean(predicted == y)),
    }


def optimizer(weight_decay: float, steps: int) -> keras.Optimizer:
    """Returns the paper's optimizer: the logits have a rate of their own."""
    total_decay = DECAY_PER_EPOCH * PAPER_EPOCHS
    logit_rate = total_decay * (1 - MOMENTUM) / steps
    weights = keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps),
        momentum=MOMENTUM,
        # Keras's decay bypasses the momentum, PyTorch's goes through it.
        weight_decay=weight_decay / (1 - MOMENTUM),
    )
    logits = keras.optimizers.SGD(logit_rate, momentum=MOMENTUM)
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(weights, {".*_logit/.*": logits})
    )


class Curves(keras.callbacks.Callback):
    """Records the means over the kernels, as the paper's figure does."""

    def __init__(self) -> None:
        super().__init__()
        self.sparsity: list[float] = []
        self.logit: list[float] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Records the start."""
        self.on_epoch_end(-1)

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Records the means."""
        kernels = codeq_keras.report(self.model).layers
        self.sparsity.append(float(np.mean([k.sparsity for k in kernels])))
        logits = [
            abs(float(k.quantizer.dead_zone_logit)) for k in self.model.kernels
        ]
        self.logit.append(float(np.mean([float(v) for v in logits])))


class RandomBatches(keras.utils.PyDataset):
    """Batches drawn at random, the same ones for every setting."""

    def __init__(self, x: np.ndarray, y: np.ndarray, *, steps: int) -> None:
        super().__init__()
        self.x, self.y, self.steps = x, y, steps
        self.rng = np.random.default_rng(SEED)

    def __len__(self) -> int:
        """Returns the number of batches per epoch."""
        return self.steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the next images and labels, whatever the index."""
        chosen = self.rng.integers(0, len(self.x), BATCH_SIZE)
        return self.x[chosen], self.y[chosen]


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """Returns the table of final values beside the paper's."""
    lines = [
        "| lambda_dz | weight decay | zeros, mean | zeros, paper "
        "| logit, mean | logit, paper | test accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        zeros, logit = row["paper"]
        lines.append(
            f"| {row['penalty']:g} | {row['weight_decay']:g} "
            f"| {row['sparsity'][-1]:.2f} | {zeros:.2f} "
            f"| {row['logit'][-1]:.2f} | {logit:.2f} "
            f"| {100 * row['test_accuracy']:.1f} % |"
        )
    return "\n".join(lines)


def header(args: argparse.Namespace) -> str:
    """Returns what was run, on what and when."""
    data = args.dataset
    if DATASETS[data].is_synthetic:
        data += " (synthetic)"
    return (
        f"{time.strftime('%Y-%m-%d')}; keras {keras.__version__}, backend "
        f"{keras.backend.backend()}, Python {platform.python_version()}, "
        f"{platform.machine()}, {os.cpu_count()} cores; seed {SEED}; "
        f"{args.network} on {data}, tested on {NUM_TEST_IMAGES} images, from "
        f"scratch, {args.steps} steps of {BATCH_SIZE} images, SGD "
        f"{LEARNING_RATE:g} with momentum {MOMENTUM:g} and a cosine for the "
        "weights, a constant rate for the logits. "
        f"The paper: ResNet-20 on CIFAR-10, {PAPER_EPOCHS} epochs."
    )


def write_results(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Writes the table, the numbers and the plot."""
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "paper_curve"
    text = f"# The paper's Fig. 4 on our data\n\n{header(args)}\n\n"
    text += (
        "Means over the kernels, as in the figure; the paper's values are "
        f"read off it. `python benchmarks/{pathlib.Path(__file__).name}`\n\n"
        f"{as_markdown(rows)}\n\n![curves]({path.name}.png)\n"
    )
    path.with_suffix(".md").write_text(text)
    record = {"header": header(args), "rows": rows}
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    plot(rows, path.with_suffix(".png"), args.steps)


def plot(rows: list[dict[str, Any]], path: pathlib.Path, steps: int) -> None:
    """Draws sparsity and logit over the steps; the paper's ends as crosses."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), sharex=True)
    fig_4a = [row for row in rows if not row["weight_decay"]]
    fig_4b = [row for row in rows if row["penalty"] == FIG_4B_PENALTY]
    for column, (chosen, name) in enumerate(
        ((fig_4a, "penalty"), (fig_4b, "weight_decay"))
    ):
        for row in chosen:
            for axis, key, end in zip(
                axes[:, column],
                ("sparsity", "logit"),
                row["paper"],
                strict=True,
            ):
                done = np.linspace(0, steps, len(row[key]))
                [line] = axis.plot(done, row[key], label=f"{row[name]:g}")
                axis.plot(steps, end, "x", color=line.get_color())
        title = "lambda_dz" if name == "penalty" else "weight decay"
        if chosen:
            axes[0, column].legend(title=title)
        axes[1, column].set_xlabel("step (x: the paper's final value)")
    axes[0, 0].set_ylabel("mean sparsity")
    axes[1, 0].set_ylabel("mean dead-zone logit")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
