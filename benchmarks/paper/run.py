"""The paper's trainings as commands, on public data or on data made here.

    python benchmarks paper --models resnet20    # as published
    python benchmarks paper --models resnet20 --relative-bops 0.03    # our way
    python benchmarks paper --models resnet50 --weights resnet50.keras
    python benchmarks paper --models resnet20 --dataset shapes --epochs 5

Networks and data sets: `resnet20` and `tinyvit` on cifar10, `resnet18` and
`resnet50` on imagenet2012. Public data is downloaded by `tensorflow-datasets`,
or read from `--data-dir`. `ds_cnn` on speech_commands is a recipe of ours.

Without `--relative-bops` the network trains on the paper's grid with learned
bit widths and the paper's penalties, which has no integers to export. With it,
one number replaces the penalties, and a `.tflite` file is written and verified.
Differs from the paper in: a tenth of CIFAR-10's training images, and a fiftieth
of ImageNet's, are left for validation; which TinyViT it is.

Everything goes to a folder of the run in `--output`, by default `artifacts`:
`settings.json`, `history.csv`, `model.keras`, `summary.json`, `model.tflite`,
and the float network as `float/model.keras`. A run that was cut off goes on
from its last whole epoch.
"""

import argparse
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import keras
import numpy as np
from harness import cli, provenance, training
from harness.training import Batches
from harness.workload import CLASSIFICATION

import codeq_keras
from paper.recipes import FLOAT_RATE, RECIPES, Recipe, optimizer, quantized

# Numbers of a recipe that an option changes.
CHANGES = ("dataset", "epochs", "batch_size")
_CALIBRATION_BATCHES = 16
_WORKERS = 8  # Threads that read and crop ImageNet.
_SMOKE = {"dataset": "shapes", "epochs": 1, "limit": 64, "batch_size": 16}

Splits = dict[str, keras.utils.PyDataset]


def main(argv: Sequence[str]) -> None:
    """Trains the network from each seed and prints what came out."""
    args = parse_args(argv)
    for name in args.models:
        for seed in args.seeds:
            print(json.dumps(run(name, seed, args), indent=2), flush=True)


def run(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Trains from one seed, exports and returns the summary."""
    changes = {key: getattr(args, key) for key in CHANGES}
    given = {key: value for key, value in changes.items() if value is not None}
    recipe = dataclasses.replace(RECIPES[name], **given)
    settings = {
        "network": name,
        **{key: getattr(recipe, key) for key in CHANGES},
        "relative_bops": args.relative_bops,
        "float_epochs": args.float_epochs,
        "weights": args.weights,
        "seed": seed,
        "backend": keras.backend.backend(),
    }
    folder = run_folder(settings, args)
    keras.utils.set_random_seed(seed)
    names = ("train", "validation", "test")
    splits = {name: load(recipe, name, seed, args) for name in names}
    net = float_network(recipe, splits, folder / "float", args)
    qmodel = quantized(net, recipe, args.relative_bops)
    train(qmodel, recipe, splits, folder, budget=args.relative_bops)
    summary = settings | summarize(qmodel, recipe, splits)
    if args.weights or args.float_epochs:
        summary["float_test_accuracy"] = evaluate(net, splits["test"])
    qmodel.save(folder / "model.keras")
    if args.relative_bops is not None:
        summary |= exported(qmodel, folder / "model.tflite", splits["train"])
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def run_folder(settings: dict[str, Any], args: argparse.Namespace) -> Path:
    """Returns the folder of a run, which can only be resumed as it is."""
    budget = settings["relative_bops"]
    mode = "published" if budget is None else f"bops_{budget:g}"
    names = (settings["network"], settings["dataset"], mode, settings["seed"])
    folder = args.output / "_".join(map(str, names))
    if args.smoke:
        shutil.rmtree(folder, ignore_errors=True)
    if (folder / "summary.json").exists():
        raise SystemExit(f"{folder} holds a finished run; choose `--output`.")
    path = folder / "settings.json"
    before = json.loads(path.read_text()) if path.exists() else settings
    if before != settings:
        raise SystemExit(
            f"{folder} must hold a run of the same settings: {settings}. "
            f"Give another `--output`. Received: {before}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n")
    return folder


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    args = cli.parse(
        "paper",
        __doc__,
        argv,
        smoke=_SMOKE,
        choices={"models": RECIPES, "dataset": datasets.DATASETS},
        output=Path("artifacts"),
        models=["resnet20"],
        dataset=str,
        data_dir=str,
        relative_bops=float,
        epochs=int,
        batch_size=int,
        limit=int,
        weights=str,
        float_epochs=0,
        seeds=[0],
    )
    budget = args.relative_bops
    if budget is not None and not 0 < budget < 1:
        raise SystemExit(
            f"`--relative-bops` must be in (0, 1). Received: {budget}."
        )
    starts_trained = args.weights or args.float_epochs
    for name in args.models:
        if RECIPES[name].needs_weights and not starts_trained:
            raise SystemExit(
                f"{name} starts from a trained network. Expected `--weights "
                "FILE`, or `--float-epochs N` to train one here."
            )
    return args


def load(
    recipe: Recipe, split: str, seed: int, args: argparse.Namespace
) -> keras.utils.PyDataset:
    """Returns the batches of a split; training data shuffled and augmented."""
    size = recipe.batch_size
    source = {"name": recipe.dataset, "split": split, "data_dir": args.data_dir}
    if datasets.DATASETS[recipe.dataset].network_input is None:
        options = {"batch_size": size, "workers": _WORKERS}
        return datasets.load_batches(**source, **options)
    x, y = datasets.load(**source, count=args.limit)
    if split != "train":
        return Batches(x, y, batch_size=size, seed=None)
    augment = training.crop_and_mirror if x.shape[-1] == 3 else None
    return Batches(x, y, batch_size=size, seed=seed, augment=augment)


def float_network(
    recipe: Recipe, splits: Splits, folder: Path, args: argparse.Namespace
) -> keras.Model:
    """Returns the network to start from, trained in float if asked for."""
    path = folder / "model.keras"
    if path.exists():
        return keras.saving.load_model(path, compile=False)
    net = recipe.build(datasets.DATASETS[recipe.dataset].num_classes)
    if args.weights:
        net.load_weights(args.weights)
    if args.float_epochs:
        in_float = dataclasses.replace(
            recipe, epochs=args.float_epochs, learning_rate=FLOAT_RATE
        )
        train(net, in_float, splits, folder)
        net.save(path)
    return net


def train(
    model: keras.Model,
    recipe: Recipe,
    splits: Splits,
    folder: Path,
    *,
    budget: float | None = None,
) -> None:
    """Compiles and fits a model, float or quantized; resumes a run."""
    folder.mkdir(parents=True, exist_ok=True)
    callbacks: list[keras.callbacks.Callback] = []
    if budget is not None:
        callbacks.append(codeq_keras.CompressionBudget(relative_bops=budget))
    is_quantized = isinstance(model, codeq_keras.QuantizedModel)
    is_published = is_quantized and budget is None
    if is_published:
        callbacks.append(codeq_keras.CompressionLogger())
    callbacks += [
        keras.callbacks.CSVLogger(str(folder / "history.csv"), append=True),
        keras.callbacks.BackupAndRestore(str(folder / "backup")),
    ]
    num_steps = recipe.epochs * len(splits["train"])
    training.fit(
        model,
        splits["train"],
        optimizer(recipe, num_steps, is_published=is_published),
        CLASSIFICATION.loss,
        epochs=recipe.epochs,
        callbacks=callbacks,
        validation=splits["validation"],
    )


def summarize(qmodel: Any, recipe: Recipe, splits: Splits) -> dict[str, Any]:
    """Returns accuracy and costs, and what they depend on."""
    data = splits["train"]
    first = range(min(_CALIBRATION_BATCHES, len(data)))
    codeq_keras.reestimate_batch_norm(qmodel, [data[i][0] for i in first])
    report = codeq_keras.report(qmodel)
    return {
        "is_synthetic": datasets.DATASETS[recipe.dataset].is_synthetic,
        "test_accuracy": evaluate(qmodel, splits["test"]),
        "reached_bops": report.relative_bops,
        "sparsity": report.sparsity,
        "mean_bit_width": report.mean_bit_width,
        "versions": provenance.versions(),
    }


def evaluate(model: keras.Model, test: keras.utils.PyDataset) -> float:
    """Returns the fraction of right answers, read batch by batch."""
    right = []
    for index in range(len(test)):
        x, y = test[index]
        right.append(model.predict_on_batch(x).argmax(-1) == y)
    return float(np.concatenate(right).mean())


def exported(qmodel: Any, path: Path, data: Any) -> dict[str, Any]:
    """Writes the file; returns its size and proof. Needs TensorFlow."""
    import tflite_export

    samples = data[0][0][:100]
    result = tflite_export.export(qmodel, path, representative_dataset=samples)
    proof = result.verification
    return {
        "file_bytes": result.size_bytes,
        "integers_equal": proof.codes_equal,
        "top1_agreement": proof.top1_agreement,
    }
