"""Accuracy against cost: CoDeQ and its alternatives from one float network.

    KERAS_BACKEND=jax python benchmarks accuracy --models resnet8 \
        --methods float ours --epochs 12 --budgets 0.05 --seeds 0 1 2

Every finished run is one line of `accuracy_<model>.jsonl`, and a run that has
a line is not repeated: the same command again only writes the table and the
plot anew. `--save` keeps the models for the benchmarks of files. No TensorFlow
is needed with another backend.

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
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from harness import cli, provenance, results, training
from harness.training import Training
from harness.workload import Splits

from accuracy import report
from accuracy.methods import METHODS
from accuracy.workloads import WORKLOADS

SMOKE_EXAMPLES = 640
# Methods of other questions, or that need more than the package.
ON_REQUEST = (
    *("tfmot_pqat", "hgq2"),
    *("ours_zeros", "ours_ternary", "ours_1x1", "ours_dead_zone"),
    *("qat2", "post_training", "auto", "auto_distilled"),
    *("fixed4", "fixed3", "fixed2", "learned", "search"),
    *("fitted_first", "fitted_first2"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What distinguishes one line of the results from another."""

    model: str
    method: str
    budget: float | None
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its file."""
        budget = "" if self.budget is None else f"_{self.budget:g}"
        return f"{self.model}_{self.method}{budget}_{self.epochs}_{self.seed}"


@dataclasses.dataclass(frozen=True)
class Start:
    """Where all runs of a workload start: its data and float network."""

    split: Splits
    net: keras.Model

    @classmethod
    def load(cls, name: str, args: argparse.Namespace) -> "Start":
        """Loads the data; trains the float network unless it has a file."""
        limit, cycles = (
            (SMOKE_EXAMPLES, ((1, 1.0),)) if args.smoke else (None,) * 2
        )
        split = Splits.load(WORKLOADS[name], limit)
        path = args.output / "float" / f"{name}.keras"
        net = training.float_network(WORKLOADS[name], split, path, cycles)
        return cls(split, net)


def main(argv: Sequence[str]) -> None:
    """Runs what is missing and writes the reports."""
    args = cli.parse(
        "accuracy",
        __doc__,
        argv,
        smoke={"seeds": [0], "epochs": 1, "methods": ["float", "ours"]},
        choices={"models": WORKLOADS, "methods": METHODS},
        models=["resnet8"],
        methods=[name for name in METHODS if name not in ON_REQUEST],
        budgets=[0.05],
        epochs=12,
        seeds=[0, 1, 2],
        save=False,
    )
    for name in args.models:
        path = args.output / f"accuracy_{name}.jsonl"
        done = {run_of(line) for line in results.read(path)}
        missing = [run for run in runs(name, args) if run not in done]
        start = Start.load(name, args) if missing else None
        for run in missing:
            saved = model_path(run, args.output) if args.save else None
            results.append(path, execute(run, start, saved))
        report.write(path, WORKLOADS[name])


def runs(model: str, args: argparse.Namespace) -> list[Run]:
    """Returns the runs that were asked for, one seed after the other."""
    found = {}
    for seed, budget, method in itertools.product(
        args.seeds, args.budgets, args.methods
    ):
        entry = METHODS[method]
        epochs = args.epochs if entry.trains else 0
        # A method without a budget runs once for all.
        goal = budget if entry.has_budget else None
        found[Run(model, method, goal, epochs, seed)] = None
    return list(found)


def run_of(line: dict[str, Any]) -> Run:
    """Returns the run that a line tells of."""
    return Run(**{f.name: line[f.name] for f in dataclasses.fields(Run)})


def execute(
    run: Run, start: Start, saved: Path | None = None
) -> dict[str, Any]:
    """Carries out a run, saves its model if asked to, and returns its line."""
    keras.utils.set_random_seed(run.seed)
    begin = time.monotonic()
    job = Training(WORKLOADS[run.model], start.split, run.epochs, run.seed)
    outcome = METHODS[run.method].compress(start.net, job, run.budget)
    seconds = time.monotonic() - begin
    if saved is not None:
        training.save(outcome.trained or outcome.model, saved)
    return {
        **dataclasses.asdict(run),
        "test_score": job.evaluate(outcome.model, "test"),
        "validation_score": job.evaluate(outcome.model, "validation"),
        **outcome.costs(),
        "settings": outcome.settings,
        "seconds": round(seconds, 1),
        "date": provenance.today(),
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
    }


def model_path(run: Run, folder: Path) -> Path:
    """Returns the file of a run's model."""
    return folder / "models" / f"{run.name}.keras"


def trained_model(run: Run, start: Start, folder: Path) -> keras.Model:
    """Returns the model of a run, from its file or trained now."""
    path = model_path(run, folder)
    if not path.exists():
        execute(run, start, path)
    return keras.saving.load_model(path, compile=False)
