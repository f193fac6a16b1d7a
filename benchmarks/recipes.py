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
from collections.abc import Callable
from typing import Any

import accuracy
import data
import keras
import networks
import numpy as np

import codeq_keras

MOMENTUM = 0.9
_SEED = 0
_PADDING = 4  # Pixels around a small image before a crop.
_CALIBRATION_BATCHES = 16


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the paper trains one network.

    Attributes:
        build: From the number of classes to the network, its output logits.
        dataset: Key of `data.DATASETS`.
        epochs: Length of the training; the learning rate follows a cosine.
        batch_size: Examples per step.
        learning_rate: Of the weights: SGD with momentum, or AdamW.
        dead_zone_penalty: The paper's lambda_dz: a loss term under SGD, a
            decay of the logits under AdamW, which would divide the term away.
        bit_width_penalty: The paper's lambda_bit, likewise.
        logit_rate: Learning rate of the logits.
        is_adam: Whether AdamW moves the weights and the logits.
        weight_decay: Of the weights.
        float_rate: Learning rate of a training in float that comes first.
        needs_weights: Whether the paper starts from a trained network.
    """

    build: Callable[[int], keras.Model]
    dataset: str
    epochs: int
    batch_size: int
    learning_rate: float
    dead_zone_penalty: float
    bit_width_penalty: float
    logit_rate: float = 1e-3
    is_adam: bool = False
    weight_decay: float = 1e-4
    float_rate: float = 0.1
    needs_weights: bool = False


def _resnet50(classes: int) -> keras.Model:
    """The network as published, for the images of `data`, in [-1, 1].

    Keras's weights are for BGR in [0, 255] less a mean; the first convolution
    takes over both, so that they can be loaded as they are.
    """
    net = keras.applications.ResNet50(
        weights=None, classes=classes, classifier_activation=None
    )
    return net


# Epochs, batch sizes, penalties and the rates of the logits are those of the
# paper's section 6.1. It refers to "the original work" for the rest: rate and
# decay of SGD are those of the ResNet papers, a tenth of them for fine-tuning.
RECIPES = {
    "resnet20": Recipe(
        lambda classes: networks.resnet20(classes=classes),
        "cifar10",
        epochs=300,
        batch_size=512,
        learning_rate=0.1,
        dead_zone_penalty=0.01,
        bit_width_penalty=0.01,
    ),
    "resnet18": Recipe(
        lambda classes: networks.resnet18(classes=classes),
        "imagenet2012",
        epochs=120,
        batch_size=512,
        learning_rate=0.01,
        logit_rate=1e-4,
        dead_zone_penalty=0.02,
        bit_width_penalty=0.1,
        needs_weights=True,
    ),
    "resnet50": Recipe(
        _resnet50,
        "imagenet2012",
        epochs=120,
        batch_size=256,
        learning_rate=0.01,
        logit_rate=1e-4,
        dead_zone_penalty=0.02,
        bit_width_penalty=0.05,
        needs_weights=True,
    ),
    # The paper does not say which TinyViT; this one is `networks.vit`.
    "tinyvit": Recipe(
        lambda classes: networks.vit(classes=classes),
        "cifar10",
        epochs=200,
        batch_size=128,
        learning_rate=3e-4,
        is_adam=True,
        dead_zone_penalty=0.5,
        bit_width_penalty=0.75,
    ),
    # Not in the paper.
    "ds_cnn": Recipe(
        lambda classes: networks.ds_cnn(classes=classes),
        "speech_commands",
        epochs=36,
        batch_size=100,
        learning_rate=1e-3,
        is_adam=True,
        dead_zone_penalty=0.5,
        bit_width_penalty=0.75,
    ),
}


def main() -> None:
    """Trains one network and prints what came out."""
    args = parse_args()
    recipe = dataclasses.replace(
        RECIPES[args.network],
        dataset=args.dataset or RECIPES[args.network].dataset,
        epochs=args.epochs or RECIPES[args.network].epochs,
    )
    folder = args.output or pathlib.Path("artifacts", args.network)
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(_SEED)
    splits = {s: load(recipe, s, args) for s in ("train", "validation", "test")}
    net = recipe.build(data.DATASETS[recipe.dataset].num_classes)
    if args.weights:
        net.load_weights(args.weights)
    if args.float_epochs:
        train(net, recipe, splits, folder / "float", epochs=args.float_epochs)
    qmodel = quantized(net, args.relative_bops)
    train(qmodel, recipe, splits, folder, budget=args.relative_bops)
    summary = summarize(qmodel, recipe, splits)
    qmodel.save(folder / "model.keras")
    if args.relative_bops:
        summary |= exported(qmodel, folder / "model.tflite", splits["train"])
    text = json.dumps(summary, indent=2)
    (folder / "summary.json").write_text(text + "\n")
    print(text)


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
    parser.add_argument("--weights", help="of a trained float network")
    parser.add_argument(
        "--float-epochs", type=int, default=0, help="train in float first"
    )
    parser.add_argument("--output", type=pathlib.Path, help="folder")
    args = parser.parse_args()
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
        )
    x, y = data.load(recipe.dataset, split, data_dir=args.data_dir)
    return Batches(x, y, recipe.batch_size, augment=split == "train")


class Batches(keras.utils.PyDataset):
    """Batches of arrays.

    Args:
        x: Inputs.
        y: Labels.
        batch_size: Examples per batch; the last one may be smaller.
        augment: Shuffle; and crop and mirror colour images at random.
    """

    def __init__(
        self, x: np.ndarray, y: np.ndarray, batch_size: int, *, augment: bool
    ) -> None:
        super().__init__()
        self.x, self.y, self.batch_size = x, y, batch_size
        self.augment = augment
        self.rng = np.random.default_rng(_SEED)
        self.order = np.arange(len(x))
        self.on_epoch_end()

    def __len__(self) -> int:
        """Returns the number of batches."""
        return -(-len(self.x) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs and labels of one batch."""
        start = index * self.batch_size
        chosen = self.order[start : start + self.batch_size]
        x = self.x[chosen]
        if self.augment and x.shape[-1] == 3:
            x = self._cropped(x)
        return x, self.y[chosen]

    def on_epoch_end(self) -> None:
        """Shuffles anew."""
        if self.augment:
            self.order = self.rng.permutation(len(self.x))

    def _cropped(self, x: np.ndarray) -> np.ndarray:
        height, width = x.shape[1:3]
        padding = (_PADDING, _PADDING)
        padded = np.pad(x, ((0, 0), padding, padding, (0, 0)))
        corners = self.rng.integers(0, 2 * _PADDING + 1, (len(x), 2))
        x = np.stack(
            [
                image[top : top + height, left : left + width]
                for image, (top, left) in zip(padded, corners, strict=True)
            ]
        )
        mirrored = self.rng.random(len(x)) < 0.5
        x[mirrored] = x[mirrored, :, ::-1]
        return x


def quantized(
    net: keras.Model, budget: float | None
) -> codeq_keras.QuantizedModel:
    """Returns the network to train: for a budget, or as published."""
    if budget:
        return codeq_keras.quantize_model(net)
    config = codeq_keras.CoDeQConfig(
        bit_width="learned", min_bit_width=2, level_grid="paper"
    )
    return codeq_keras.quantize_model(net, config)


def optimizer(
    recipe: Recipe, num_steps: int, *, is_published: bool
) -> keras.optimizers.Optimizer:
    """Returns the paper's optimizer; the one of the weights if not published.

    As published, the logits have rates and decays of their own.
    """

    def on_cosine(value: float, decay: float) -> keras.optimizers.Optimizer:
        rate = keras.optimizers.schedules.CosineDecay(value, num_steps)
        if recipe.is_adam:
            return keras.optimizers.AdamW(rate, decay)
        # Keras's decay bypasses the momentum, an L2 term goes through it.
        decay = decay / (1 - MOMENTUM)
        return keras.optimizers.SGD(rate, MOMENTUM, weight_decay=decay)

    weights = on_cosine(recipe.learning_rate, recipe.weight_decay)
    if not is_published:
        return weights
    logits = {
        ".*dead_zone_logit.*": recipe.dead_zone_penalty,
        ".*bit_width_logit.*": recipe.bit_width_penalty,
    }
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            weights,
            {
                path: on_cosine(recipe.logit_rate, penalty)
                for path, penalty in logits.items()
            },
        )
    )


def train(
    model: keras.Model,
    recipe: Recipe,
    splits: dict[str, keras.utils.PyDataset],
    folder: pathlib.Path,
    *,
    epochs: int | None = None,
    budget: float | None = None,
) -> None:
    """Compiles and fits a model, float or quantized; resumes a run."""
    epochs = epochs or recipe.epochs
    folder.mkdir(parents=True, exist_ok=True)
    callbacks: list[keras.callbacks.Callback] = []
    if budget:
        callbacks.append(codeq_keras.CompressionBudget(relative_bops=budget))
    is_published = isinstance(model, codeq_keras.QuantizedModel) and not budget
    if is_published:
        callbacks.append(codeq_keras.CompressionLogger())
    callbacks += [
        keras.callbacks.CSVLogger(str(folder / "history.csv"), append=True),
        keras.callbacks.BackupAndRestore(str(folder / "backup")),
    ]
    num_steps = epochs * len(splits["train"])
    model.compile(
        optimizer(recipe, num_steps, is_published=is_published),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        splits["train"],
        validation_data=splits["validation"],
        epochs=epochs,
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
    _, test_accuracy = qmodel.evaluate(splits["test"], verbose=0)
    return {
        "dataset": recipe.dataset,
        "is_synthetic": data.DATASETS[recipe.dataset].is_synthetic,
        "epochs": recipe.epochs,
        "test_accuracy": float(test_accuracy),
        "relative_bops": report.relative_bops,
        "sparsity": report.sparsity,
        "mean_bit_width": report.mean_bit_width,
        "seed": _SEED,
        "versions": accuracy.versions(),
    }


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
