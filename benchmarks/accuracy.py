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
import functools
import importlib.metadata
import itertools
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import accuracy_methods
import accuracy_report
import batches
import data  # noqa: F401  Makes `datasets` importable.
import keras
import networks
import numpy as np
import overhead
from datasets import keywords, shapes

RESULTS = pathlib.Path(__file__).parent / "results"
BATCH_SIZE = 64
# Epochs and learning rate, as a part of the workload's, of the cosines that
# train the float network, enough that fine-tuning gains little.
FLOAT_CYCLES = ((60, 0.5), (36, 1.0))
FLOAT_SEED = 1000
NUM_EXAMPLES = {"validation": 3_000, "test": 10_000}


def load_shapes(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws images, in [-1, 1]."""
    x, y = zip(*shapes.generate(split, count, image_size=32), strict=True)
    return np.stack(x).astype("float32") / 127.5 - 1.0, np.array(y)


def load_keywords(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes cepstral coefficients."""
    x, y = zip(*keywords.generate(split, count), strict=True)
    return np.stack(x), np.array(y)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network and its data.

    Attributes:
        build: Returns the untrained network.
        load: Returns the first examples of a split as arrays `(x, y)`.
        note: What a reader must know of it.
        augment: Whether images may be mirrored and transposed.
        num_train: Training examples.
        learning_rate: Of all methods; chosen on ResNet-8's validation split
            where nothing else is said.
    """

    build: Any
    load: Callable[[str, int], tuple[np.ndarray, np.ndarray]]
    note: str
    augment: bool = False
    num_train: int = 10_000
    learning_rate: float = 6e-3


def _shapes(
    network: str, build: Any, note: str = "10,000 for training", **settings: Any
) -> Workload:
    note = f"{network}; synthetic images of shapes, 32x32x3, {note}"
    return Workload(build, load_shapes, note, **settings)


_resnet8 = functools.partial(
    _shapes,
    "MLPerf Tiny's ResNet-8 with a stem of stride 2 (3.2 M MACs)",
    lambda: networks.resnet8(stem_strides=2),
)


WORKLOADS = {
    "resnet8": _resnet8(),
    "resnet8_20000": _resnet8("20,000 for training", num_train=20_000),
    # Enough data for 99 %, where methods differ less.
    "resnet8_augmented": _resnet8(
        "20,000 for training, mirrored and transposed",
        augment=True,
        num_train=20_000,
    ),
    "resnet20": _shapes("ResNet-20", networks.resnet20),
    "mobilenet_v1": _shapes(
        "MobileNetV1-0.25",
        lambda: networks.mobilenet_v1(input_shape=(32, 32, 3), classes=10),
    ),
    "vit": _shapes(
        "Vision transformer of 4 blocks, width 48, patches of 8x8",
        lambda: networks.vit(stem_convs=3),
        learning_rate=3e-3,  # 1e-3 was behind on validation.
    ),
    "ds_cnn": Workload(
        networks.ds_cnn,
        load_keywords,
        "MLPerf Tiny's DS-CNN; synthetic keywords, 49x10",
    ),
}


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
        accuracy_report.write(path, note=WORKLOADS[args.model].note)
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
        default=[m for m in accuracy_methods.METHODS if m != "tfmot_pqat"],
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


@dataclasses.dataclass(frozen=True)
class Splits:
    """Arrays `(x, y)` of the three splits."""

    train: tuple[Any, Any]
    validation: tuple[Any, Any]
    test: tuple[Any, Any]

    @classmethod
    def load(cls, workload: Workload) -> "Splits":
        """Loads a workload's data."""
        counts = {"train": workload.num_train, **NUM_EXAMPLES}
        return cls(
            **{
                split: workload.load(split, count)
                for split, count in counts.items()
            }
        )


def float_network(
    name: str, split: Splits, folder: pathlib.Path
) -> keras.Model:
    """Returns the float network that all runs start from.

    It is trained once, with a seed of its own, and kept in `folder`.
    """
    path = folder / f"{name}.keras"
    if not path.exists():
        keras.utils.set_random_seed(FLOAT_SEED)
        net = WORKLOADS[name].build()
        for epochs, part in FLOAT_CYCLES:
            training = Training.of(WORKLOADS[name], split, epochs, FLOAT_SEED)
            rate = part * training.learning_rate
            dataclasses.replace(training, learning_rate=rate).fit(net)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.keras")
        net.save(partial, include_optimizer=False)
        os.replace(partial, path)
    return keras.saving.load_model(path, compile=False)


@dataclasses.dataclass(frozen=True)
class Training:
    """The training that all methods share."""

    split: Splits
    epochs: int
    seed: int
    augment: bool
    learning_rate: float

    @classmethod
    def of(
        cls, workload: Workload, split: Splits, epochs: int, seed: int
    ) -> "Training":
        """Returns the training of a workload."""
        return cls(
            split, epochs, seed, workload.augment, workload.learning_rate
        )

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * len(self.batches())

    def batches(self) -> keras.utils.PyDataset:
        """Returns the training data."""
        return batches.Batches(
            *self.split.train,
            batch_size=BATCH_SIZE,
            seed=self.seed,
            augment=batches.mirror_and_transpose if self.augment else None,
        )

    def fit(self, model: keras.Model, callbacks: Any = ()) -> None:
        """Compiles and trains a model with logits as its output."""
        rate = keras.optimizers.schedules.CosineDecay(
            self.learning_rate, self.num_steps
        )
        model.compile(
            keras.optimizers.AdamW(rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(
            self.batches(),
            epochs=self.epochs,
            callbacks=list(callbacks),
            verbose=0,
        )


def execute(run: Run, net: keras.Model, split: Splits) -> dict[str, Any]:
    """Carries out a run and returns its line."""
    keras.utils.set_random_seed(run.seed)
    begin = time.monotonic(), time.process_time()
    entry = accuracy_methods.METHODS[run.method]
    training = Training.of(WORKLOADS[run.model], split, run.epochs, run.seed)
    outcome = entry.compress(net, training, run.budget)
    seconds = time.monotonic() - begin[0], time.process_time() - begin[1]
    return {
        **dataclasses.asdict(run),
        "test_accuracy": accuracy(outcome.model, *split.test),
        "validation_accuracy": accuracy(outcome.model, *split.validation),
        **outcome.costs(),
        "settings": outcome.settings,
        "seconds": round(seconds[0], 1),
        "cpu_seconds": round(seconds[1], 1),
        "date": datetime.date.today().isoformat(),
        "backend": keras.backend.backend(),
        "versions": versions(),
        "hardware": f"{overhead.processor()}, {os.cpu_count()} cores",
    }


def accuracy(model: keras.Model, x: Any, y: Any) -> float:
    """Returns the fraction of right answers."""
    logits = model.predict(x, batch_size=500, verbose=0)
    return float((logits.argmax(-1) == y).mean())


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
