"""The paper's trainings as commands, on public data or on data made here.

    python benchmarks/recipes.py resnet20                # as published
    python benchmarks/recipes.py resnet20 --relative-bops 0.03      # our way
    python benchmarks/recipes.py resnet50 --weights resnet50.keras
    python benchmarks/recipes.py resnet20 --dataset shapes --epochs 5

Networks and data sets: `resnet20` and `tinyvit` on cifar10, `resnet18` and
`resnet50` on imagenet2012. Public data is downloaded by `tensorflow-datasets`,
or read from `--data-dir`. `ds_cnn` on speech_commands is a recipe of ours.

Without `--relative-bops` the network trains on the paper's grid with learned
bit widths and the paper's penalties, which has no integers to export. With it,
one number replaces the penalties, and a `.tflite` file is written and verified.
Differs from the paper in: a tenth of CIFAR-10's training images, and a fiftieth
of ImageNet's, are left for validation; which TinyViT it is.

Everything goes to a folder of the run in `artifacts`, or to `--output`:
`settings.json`, `history.csv`, `model.keras`, `summary.json`, `model.tflite`,
and the float network as `float/model.keras`. A run that was cut off goes on
from its last whole epoch.
"""

import argparse
import dataclasses
import json
import pathlib
from typing import Any

import accuracy
import batches
import data
import keras
from paper_recipes import RECIPES, Recipe, optimizer, quantized

import codeq_keras

SEED = 0
_CALIBRATION_BATCHES = 16
_WORKERS = 8  # Threads that read and crop ImageNet.


def main() -> None:
    """Trains one network and prints what came out."""
    args = parse_args()
    recipe = RECIPES[args.network]
    settings = {
        "network": args.network,
        "dataset": args.dataset or recipe.dataset,
        "relative_bops": args.relative_bops,
        "epochs": args.epochs or recipe.epochs,
        "float_epochs": args.float_epochs,
        "weights": args.weights,
        "seed": SEED,
        "backend": keras.backend.backend(),
    }
    recipe = dataclasses.replace(
        recipe, dataset=settings["dataset"], epochs=settings["epochs"]
    )
    folder = args.output or pathlib.Path("artifacts", run_name(settings))
    require_same_run(folder, settings)
    keras.utils.set_random_seed(SEED)
    splits = {s: load(recipe, s, args) for s in ("train", "validation", "test")}
    net = float_network(recipe, splits, folder / "float", args)
    qmodel = quantized(net, recipe, args.relative_bops)
    train(qmodel, recipe, splits, folder, budget=args.relative_bops)
    summary = settings | summarize(qmodel, recipe, splits)
    if args.weights or args.float_epochs:
        summary["float_test_accuracy"] = evaluate(net, splits["test"])
    qmodel.save(folder / "model.keras")
    if args.relative_bops is not None:
        summary |= exported(qmodel, folder / "model.tflite", splits["train"])
    text = json.dumps(summary, indent=2)
    (folder / "summary.json").write_text(text + "\n")
    print(text)


def run_name(settings: dict[str, Any]) -> str:
    """Returns the folder of a run: its network, data and mode."""
    budget = settings["relative_bops"]
    mode = "published" if budget is None else f"bops_{budget:g}"
    return f"{settings['network']}_{settings['dataset']}_{mode}"


def require_same_run(folder: pathlib.Path, settings: dict[str, Any]) -> None:
    """Records the settings in a new folder; a run can only be resumed as is."""
    if (folder / "summary.json").exists():
        raise SystemExit(
            f"{folder} holds a finished run. Give another `--output`."
        )
    path = folder / "settings.json"
    if path.exists():
        before = json.loads(path.read_text())
        if before != settings:
            raise SystemExit(
                f"{folder} must hold a run of the same settings. Expected: "
                f"{settings}. Received: {before}. Give another `--output`."
            )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n")


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=RECIPES)
    parser.add_argument("--dataset", choices=data.DATASETS)
    parser.add_argument("--data-dir", help="folder of the prepared data sets")
    parser.add_argument(
        "--relative-bops", type=float, help="our way, to this budget"
    )
    parser.add_argument("--epochs", type=int, help="instead of the paper's")
    parser.add_argument(
        "--weights", help="file of a trained float network's weights"
    )
    parser.add_argument(
        "--float-epochs", type=int, default=0, help="train in float first"
    )
    parser.add_argument("--output", type=pathlib.Path, help="folder")
    args = parser.parse_args()
    if args.relative_bops is not None and not 0 < args.relative_bops < 1:
        parser.error(
            "`--relative-bops` must be in (0, 1). "
            f"Received: {args.relative_bops}"
        )
    starts_trained = args.weights or args.float_epochs
    if RECIPES[args.network].needs_weights and not starts_trained:
        parser.error(
            f"{args.network} starts from a trained network. Expected "
            "`--weights FILE`, or `--float-epochs N` to train one here."
        )
    return args


def load(
    recipe: Recipe, split: str, args: argparse.Namespace
) -> keras.utils.PyDataset:
    """Returns the batches of a split; training data shuffled and augmented."""
    entry = data.DATASETS[recipe.dataset]
    if entry.network_input is None:
        return data.load_batches(
            recipe.dataset,
            split,
            batch_size=recipe.batch_size,
            data_dir=args.data_dir,
            workers=_WORKERS,
        )
    x, y = data.load(recipe.dataset, split, data_dir=args.data_dir)
    size = recipe.batch_size
    if split != "train":
        return batches.Batches(x, y, batch_size=size, seed=None)
    is_image = x.shape[-1] == 3
    return batches.Batches(
        x,
        y,
        batch_size=size,
        seed=SEED,
        augment=batches.crop_and_mirror if is_image else None,
    )


def float_network(
    recipe: Recipe,
    splits: dict[str, keras.utils.PyDataset],
    folder: pathlib.Path,
    args: argparse.Namespace,
) -> keras.Model:
    """Returns the network to start from, trained in float if asked for."""
    path = folder / "model.keras"
    if path.exists():
        return keras.saving.load_model(path, compile=False)
    net = recipe.build(data.DATASETS[recipe.dataset].num_classes)
    if args.weights:
        net.load_weights(args.weights)
    if args.float_epochs:
        in_float = dataclasses.replace(
            recipe, epochs=args.float_epochs, learning_rate=recipe.float_rate
        )
        train(net, in_float, splits, folder)
        net.save(path)
    return net


def train(
    model: keras.Model,
    recipe: Recipe,
    splits: dict[str, keras.utils.PyDataset],
    folder: pathlib.Path,
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
    model.compile(
        optimizer(recipe, num_steps, is_published=is_published),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        splits["train"],
        validation_data=splits["validation"],
        epochs=recipe.epochs,
        callbacks=callbacks,
    )


def summarize(
    qmodel: codeq_keras.QuantizedModel,
    recipe: Recipe,
    splits: dict[str, keras.utils.PyDataset],
) -> dict[str, Any]:
    """Returns accuracy and costs, and what they depend on."""
    calibration = [
        splits["train"][index][0]
        for index in range(min(_CALIBRATION_BATCHES, len(splits["train"])))
    ]
    codeq_keras.reestimate_batch_norm(qmodel, calibration)
    report = codeq_keras.report(qmodel)
    return {
        "is_synthetic": data.DATASETS[recipe.dataset].is_synthetic,
        "test_accuracy": evaluate(qmodel, splits["test"]),
        "reached_bops": report.relative_bops,
        "sparsity": report.sparsity,
        "mean_bit_width": report.mean_bit_width,
        "versions": accuracy.versions(),
    }


def evaluate(model: keras.Model, test: keras.utils.PyDataset) -> float:
    """Returns the fraction of right answers of logits."""
    num_right = num_all = 0
    for index in range(len(test)):
        x, y = test[index]
        logits = model.predict_on_batch(x)
        num_right += int((logits.argmax(-1) == y).sum())
        num_all += len(y)
    return num_right / num_all


def exported(
    qmodel: codeq_keras.QuantizedModel,
    path: pathlib.Path,
    train_batches: keras.utils.PyDataset,
) -> dict[str, Any]:
    """Writes the file; returns its size and proof. Needs TensorFlow."""
    import tflite_export

    samples = train_batches[0][0][:100]
    result = tflite_export.export(qmodel, path, representative_dataset=samples)
    return {
        "file": str(path),
        "file_bytes": path.stat().st_size,
        "integers_equal": result.verification.codes_equal,
        "top1_agreement": result.verification.top1_agreement,
    }


if __name__ == "__main__":
    main()
