"""Accuracy against cost: CoDeQ and its alternatives from one float network.

    KERAS_BACKEND=jax python benchmarks/accuracy.py run --model resnet8 \
        --methods float ours --epochs 12 --budgets 0.05 --seeds 0 1 2
    python benchmarks/accuracy.py report --model resnet8

Every finished run is one line of `results/accuracy_<model>.jsonl`, and a run
that has a line is not repeated. No TensorFlow is needed with another backend.

All methods start from the same float network, see the same data in the same
number of epochs, with AdamW and a cosine. The seed decides the order of the
data and, in DS-CNN, what is dropped. BatchNorm statistics are taken anew from
4,000 training examples at the end, and a plain network with the deployed
kernels is judged; with 8-bit activations, the quantized model. Layer-wise
pruning chooses its split on the validation split; the table and the plot show
the test split.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import itertools
import json
import os
import pathlib
import time
from typing import Any

import accuracy_methods
import accuracy_report
import batches
import keras
import overhead
from workloads import WORKLOADS, Splits, Workload

RESULTS = pathlib.Path(__file__).parent / "results"
BATCH_SIZE = 64
# Epochs and learning rate, as a part of the workload's, of the cosines that
# train the float network, enough that fine-tuning gains little.
FLOAT_CYCLES = ((60, 0.5), (36, 1.0))
FLOAT_SEED = 1000
# Methods that need more than the package, and run if they are asked for.
NEED_EXTRAS = ("tfmot_pqat", "hgq2")


@dataclasses.dataclass(frozen=True)
class Run:
    """What distinguishes one line of the results from another."""

    model: str
    method: str
    budget: float | None
    epochs: int
    seed: int


def main() -> None:
    """Runs what is missing, or writes the report."""
    args = parse_args()
    path = args.results / f"accuracy_{args.model}.jsonl"
    if args.command == "report":
        accuracy_report.write(path, WORKLOADS[args.model])
        return
    done = {run_of(line) for line in read(path)}
    split = Splits.load(WORKLOADS[args.model])
    net = float_network(args.model, split, args.results / "float")
    for run in runs(args):
        if run in done:
            continue
        line = execute(run, net, split)
        append(path, line)
        print(json.dumps(line), flush=True)


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--model", choices=WORKLOADS, default="resnet8")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=accuracy_methods.METHODS,
        default=[m for m in accuracy_methods.METHODS if m not in NEED_EXTRAS],
    )
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.05])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    return parser.parse_args()


def runs(args: argparse.Namespace) -> list[Run]:
    """Returns the runs that were asked for, one seed after the other."""
    found = {}
    for seed, budget, method in itertools.product(
        args.seeds, args.budgets, args.methods
    ):
        entry = accuracy_methods.METHODS[method]
        run = Run(
            model=args.model,
            method=method,
            budget=budget if entry.has_budget else None,
            epochs=args.epochs if entry.trains else 0,
            seed=seed,
        )
        found[run] = None  # A method without a budget runs once for all.
    return list(found)


def float_network(
    name: str, split: Splits, folder: pathlib.Path
) -> keras.Model:
    """Returns the float network that all runs start from.

    It is trained once, with a seed of its own, and kept in `folder`.
    """
    path = folder / f"{name}.keras"
    if not path.exists():
        keras.utils.set_random_seed(FLOAT_SEED)
        workload = WORKLOADS[name]
        net = workload.build()
        for epochs, part in FLOAT_CYCLES:
            Training(workload, split, epochs, FLOAT_SEED, part).fit(net)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.keras")
        net.save(partial, include_optimizer=False)
        os.replace(partial, path)
    return keras.saving.load_model(path, compile=False)


@dataclasses.dataclass(frozen=True)
class Training:
    """The training that all methods share.

    Attributes:
        workload: What is trained.
        split: Its data.
        epochs: Passes over the training split.
        seed: Decides the order of the data.
        rate_part: Part of the workload's learning rate that it begins with.
    """

    workload: Workload
    split: Splits
    epochs: int
    seed: int
    rate_part: float = 1.0

    @property
    def learning_rate(self) -> float:
        """The rate that the cosine begins with."""
        return self.rate_part * self.workload.learning_rate

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * len(self.batches())

    def batches(self) -> keras.utils.PyDataset:
        """Returns the training data."""
        augment = None
        if self.workload.augment:
            augment = batches.mirror_and_transpose
        return batches.Batches(
            *self.split.train,
            batch_size=BATCH_SIZE,
            seed=self.seed,
            augment=augment,
        )

    def fit(self, model: keras.Model, callbacks: Any = ()) -> None:
        """Compiles and trains a model."""
        rate = keras.optimizers.schedules.CosineDecay(
            self.learning_rate, self.num_steps
        )
        model.compile(keras.optimizers.AdamW(rate), self.workload.task.loss)
        model.fit(
            self.batches(),
            epochs=self.epochs,
            callbacks=list(callbacks),
            verbose=0,
        )

    def evaluate(self, model: keras.Model, split: str) -> float:
        """Returns the score on a split, "validation" or "test"."""
        return self.workload.task.evaluate(model, getattr(self.split, split))


def execute(run: Run, net: keras.Model, split: Splits) -> dict[str, Any]:
    """Carries out a run and returns its line."""
    keras.utils.set_random_seed(run.seed)
    begin = time.monotonic(), time.process_time()
    entry = accuracy_methods.METHODS[run.method]
    training = Training(WORKLOADS[run.model], split, run.epochs, run.seed)
    outcome = entry.compress(net, training, run.budget)
    seconds = time.monotonic() - begin[0], time.process_time() - begin[1]
    return {
        **dataclasses.asdict(run),
        "test_score": training.evaluate(outcome.model, "test"),
        "validation_score": training.evaluate(outcome.model, "validation"),
        **outcome.costs(),
        "settings": outcome.settings,
        "seconds": round(seconds[0], 1),
        "cpu_seconds": round(seconds[1], 1),
        "date": datetime.date.today().isoformat(),
        "backend": keras.backend.backend(),
        "versions": versions(),
        "hardware": f"{overhead.processor()}, {os.cpu_count()} cores",
    }


def versions() -> dict[str, str]:
    """Returns the versions of what the numbers depend on."""
    names = ["codeq-keras", "keras", keras.backend.backend(), "numpy"]
    return {name: importlib.metadata.version(name) for name in names}


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of a file of results; none if it does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_of(line: dict[str, Any]) -> Run:
    """Returns the run that a line tells of."""
    return Run(**{f.name: line[f.name] for f in dataclasses.fields(Run)})


def append(path: pathlib.Path, line: dict[str, Any]) -> None:
    """Adds one line in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
