"""Trains the models that the export benchmarks read, and saves them.

Every network is trained in float, then compressed with CoDeQ to each budget.
The data is synthetic (`examples/datasets`): the accuracies say what the
compression costs on it, and nothing about the networks on real data.

    python benchmarks/train_models.py [resnet8 ds_cnn ...] [--output DIR]
        [--short]

A model whose file is there already is not trained again. `--short` is for a
busy machine: half of the float epochs, batches of half the size, 300 steps of
compression, 2,000 samples per evaluation; and the MobileNets, which are fully
convolutional, learn on images of half the height and width. Their files still
take full ones, with BatchNorm's statistics measured on full ones; the rows
have both accuracies.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import time
from collections.abc import Callable, Iterator

import data
import keras
import networks
import numpy as np

import codeq_keras
from codeq_keras.costs import FLOAT_BITS

SEED = 0
FLOAT_RATE = 3e-3
CODEQ_RATE = 2e-3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


Budget = Callable[[codeq_keras.QuantizedModel], codeq_keras.CompressionBudget]


@dataclasses.dataclass(frozen=True)
class Task:
    """One network, its data and how it is trained.

    Attributes:
        build: Makes the float network.
        dataset: Key of `datasets.DATASETS`.
        num_images: How much of its train split is used, from the start.
        float_epochs: Length of the float training.
        codeq_epochs: Length of each compression; at least 300 steps.
        variants: What is made of it: name, config, budget for the model.
        pattern: Regular expression of the kernels that are quantized, and
            that the budget counts; the others stay in float.
        batch_size: Samples per step.
        num_evaluated: How much of the validation and test splits is used for
            the accuracies, from the start; None for all.
        half_size: Whether it learns on images of half the height and width.
    """

    build: Callable[..., keras.Model]
    dataset: str
    num_images: int
    float_epochs: int
    codeq_epochs: int
    variants: tuple[tuple[str, codeq_keras.CoDeQConfig, Budget], ...]
    pattern: str = ""
    batch_size: int = 64
    num_evaluated: int | None = None
    half_size: bool = False


def shortened(task: Task) -> Task:
    """Returns the task of `--short`."""
    batch_size = task.batch_size // 2
    steps_per_epoch = math.ceil(task.num_images / batch_size)
    return dataclasses.replace(
        task,
        float_epochs=task.float_epochs // (1 if task.pattern else 2),
        codeq_epochs=math.ceil(300 / steps_per_epoch),
        batch_size=batch_size,
        num_evaluated=2_000,
        half_size=bool(task.pattern),
    )


def zeros(fraction: float) -> Budget:
    """Returns a budget on the zeros among the quantized weights."""
    return lambda qmodel: codeq_keras.CompressionBudget(sparsity=fraction)


def zero_macs(fraction: float) -> Budget:
    """Returns a budget on the zeros that each quantized weight's use counts.

    Sparse kernels skip multiply-accumulates, so this, not the number of
    weights, is what they save.
    """

    def budget(
        qmodel: codeq_keras.QuantizedModel,
    ) -> codeq_keras.CompressionBudget:
        total = sum(kernel.num_macs for kernel in qmodel.kernels)
        share = sum(k.num_macs for k in qmodel.quantized_kernels) / total
        bits = 4 / FLOAT_BITS
        return codeq_keras.CompressionBudget(
            relative_bops=1 - share + share * (1 - fraction) * bits
        )

    return budget


def _grid(level_grid: str) -> codeq_keras.CoDeQConfig:
    return codeq_keras.CoDeQConfig(bit_width=4, level_grid=level_grid)


_BOTH_GRIDS = tuple(
    (f"80_{level_grid}", _grid(level_grid), zeros(0.8))
    for level_grid in ("dead_zone", "uniform")
)

# 90 % first: the run may be interrupted.
_POINTWISE_BUDGETS = (
    ("90", _grid("uniform"), zeros(0.9)),
    ("90_macs", _grid("uniform"), zero_macs(0.9)),
    ("80", _grid("uniform"), zeros(0.8)),
    ("95", _grid("uniform"), zeros(0.95)),
)


def _mobilenet(build: Callable[..., keras.Model]) -> Task:
    return Task(
        functools.partial(build, alpha=0.5, classes=10),
        "shapes96",
        6_000,
        6,
        4,
        _POINTWISE_BUDGETS,
        pattern="pointwise",
    )


TASKS = {
    "ds_cnn": Task(networks.ds_cnn, "keywords", 10_000, 6, 4, _BOTH_GRIDS),
    "resnet8": Task(networks.resnet8, "shapes", 10_000, 8, 4, _BOTH_GRIDS),
    "mobilenet_v1": _mobilenet(networks.mobilenet_v1),
    "mobilenet_v2": _mobilenet(networks.mobilenet_v2),
}


def main() -> None:
    """Trains, saves and prints one line per model."""
    args = parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    print(
        f"keras {keras.__version__}, backend {keras.backend.backend()}, "
        f"codeq-keras {importlib.metadata.version('codeq-keras')}, "
        f"numpy {np.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}, {os.cpu_count()} cores; seed {SEED}; "
        f"{'short training, ' if args.short else ''}synthetic data",
        flush=True,
    )
    for name in args.tasks or TASKS:
        task = shortened(TASKS[name]) if args.short else TASKS[name]
        for row in run(name, task, args.output):
            print(json.dumps(row), flush=True)


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="task")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("artifacts/models")
    )
    parser.add_argument("--short", action="store_true", help="see above")
    return parser.parse_args()


def run(name: str, task: Task, output: pathlib.Path) -> Iterator[dict]:
    """Yields one row per model, each after its file is written."""
    splits = {
        split: data.load(task.dataset, split)
        for split in ("train", "validation", "test")
    }
    for split, (x, y) in splits.items():
        size = task.num_images if split == "train" else task.num_evaluated
        splits[split] = x[:size], y[:size]
    learned = splits
    if task.half_size:
        learned = {k: (halved(x), y) for k, (x, y) in splits.items()}
    input_shape = learned["train"][0].shape[1:]

    path = output / f"{name}_float.keras"
    full = task.build()
    small = task.build(input_shape=input_shape)
    if path.exists():
        full = keras.saving.load_model(path)
        small.set_weights(full.get_weights())
    else:
        keras.utils.set_random_seed(SEED)
        small = task.build(input_shape=input_shape)
        seconds = fit(small, learned, task, task.float_epochs, FLOAT_RATE)
        transfer(small, full, splits, reestimate=task.half_size)
        yield finish(full, small, (splits, learned), path, seconds)
    for variant, config, budget in task.variants:
        path = output / f"{name}_{variant}.keras"
        if path.exists():
            continue
        keras.utils.set_random_seed(SEED)
        qmodel = quantize(small, config, task.pattern)
        seconds = fit(
            qmodel,
            learned,
            task,
            task.codeq_epochs,
            CODEQ_RATE,
            budget(qmodel),
        )
        full_qmodel = quantize(full, config, task.pattern)
        transfer(qmodel, full_qmodel, splits, reestimate=True)
        yield finish(full_qmodel, qmodel, (splits, learned), path, seconds)


def halved(images: np.ndarray) -> np.ndarray:
    """Returns the means of 2x2 pixels."""
    count, height, width, channels = images.shape
    shape = (count, height // 2, 2, width // 2, 2, channels)
    return images.reshape(shape).mean((2, 4))


def transfer(
    source: keras.Model, target: keras.Model, splits: dict, *, reestimate: bool
) -> None:
    """Gives the target the weights of the source, for its own input size."""
    target.set_weights(source.get_weights())
    target.compile(loss=LOSS, metrics=["accuracy"])
    if reestimate:
        batches = np.split(splits["train"][0][:1024], 4)
        codeq_keras.reestimate_batch_norm(target, batches)


def quantize(
    model: keras.Model, config: codeq_keras.CoDeQConfig, pattern: str
) -> codeq_keras.QuantizedModel:
    """Returns the model with quantizers on the kernels that match."""
    others = {f"^(?!.*{pattern})": None} if pattern else {}
    return codeq_keras.quantize_model(model, config, overrides=others)


def fit(
    model: keras.Model,
    splits: dict,
    task: Task,
    epochs: int,
    rate: float,
    *callbacks: keras.callbacks.Callback,
) -> float:
    """Trains with a cosine schedule; returns the seconds it took."""
    x, y = splits["train"]
    steps = epochs * math.ceil(len(x) / task.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(
        keras.optimizers.Adam(schedule),
        loss=LOSS,
        metrics=["accuracy"],
    )
    start = time.perf_counter()
    model.fit(
        x,
        y,
        batch_size=task.batch_size,
        epochs=epochs,
        verbose=2,
        callbacks=list(callbacks),
    )
    return time.perf_counter() - start


def finish(
    model: keras.Model,
    trained: keras.Model,
    data_of_both: tuple[dict, dict],
    path: pathlib.Path,
    seconds: float,
) -> dict:
    """Saves the model and returns its row."""
    # Two steps, so that whoever waits for the file never sees half of it.
    part = path.with_name(f"part_{path.name}")
    model.save(part)
    part.rename(path)
    row = {"model": path.stem, "seed": SEED, "seconds": round(seconds)}
    splits, learned = data_of_both
    for split in ("validation", "test"):
        _, accuracy = model.evaluate(*splits[split], verbose=0)
        row[f"{split}_accuracy"] = round(accuracy, 4)
        if learned is not splits:
            _, accuracy = trained.evaluate(*learned[split], verbose=0)
            row[f"{split}_accuracy_half_size"] = round(accuracy, 4)
    if isinstance(model, codeq_keras.QuantizedModel):
        row["sparsity"] = round(codeq_keras.report(model).sparsity, 4)
    path.with_suffix(".json").write_text(json.dumps(row, indent=2) + "\n")
    return row


if __name__ == "__main__":
    main()
