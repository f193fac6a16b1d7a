"""What the files of trained networks compute, against Keras, end to end.

Starts from the float networks of `accuracy.py`, trains with 8-bit activations
to 5 % of the multiply-accumulates' bit operations, exports, and runs model and
file on the test split. The table of coverage does the same with random weights.

    python benchmarks/trained_parity.py [--models resnet8 ds_cnn]
        [--epochs 12] > benchmarks/results/trained_parity.md
"""

import argparse
import datetime
import importlib.metadata
import pathlib
import tempfile

import accuracy
import accuracy_methods
import keras
import numpy as np
import overhead
from workloads import CLASSIFICATION, WORKLOADS, Splits

import tflite_export
from tflite_export.runtime import interpreter

LEVEL_GRIDS = ("dead_zone", "uniform")
BUDGET = 0.05
SEED = 0
PACKAGES = ("keras", "tensorflow", "ai-edge-litert", "numpy")
COLUMNS = (
    "model",
    "level grid",
    "test accuracy in Keras, %",
    "of the file, %",
    "same top class, %",
    "outputs within one step, %",
    "largest difference, steps",
    "integers equal",
)


def main() -> None:
    """Trains, exports and prints a table."""
    args = parse_args()
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in PACKAGES
    ]
    print(
        "# Trained networks: the file against Keras\n\n"
        f"{datetime.date.today()}; {', '.join(versions)}; "
        f"{overhead.processor()}; seed {SEED}, {args.epochs} epochs, "
        f"{100 * BUDGET:g} % BOPs, 8-bit activations; synthetic data.\n"
    )
    print(as_row(COLUMNS))
    print(as_row(["---"] * len(COLUMNS)))
    for name in args.models:
        split = Splits.load(WORKLOADS[name])
        net = accuracy.float_network(name, split, args.results / "float")
        for grid in LEVEL_GRIDS:
            row = measure(name, grid, net, split, epochs=args.epochs)
            print(as_row(row), flush=True)
    print()
    for name in args.models:
        print(f"- {name}: {WORKLOADS[name].note}")


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models",
        nargs="+",
        choices=[k for k, w in WORKLOADS.items() if w.task is CLASSIFICATION],
        default=["resnet8", "ds_cnn"],
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument(
        "--results", type=pathlib.Path, default=accuracy.RESULTS
    )
    return parser.parse_args()


def measure(
    name: str,
    grid: str,
    net: keras.Model,
    split: Splits,
    *,
    epochs: int,
) -> list[str]:
    """Returns one row of the table."""
    keras.utils.set_random_seed(SEED)
    workload = WORKLOADS[name]
    training = accuracy.Training(workload, split, epochs, SEED)
    compress = accuracy_methods.codeq(
        distill=True, activation_bit_width=8, level_grid=grid
    )
    qmodel = compress(net, training, BUDGET).model
    x, y = split.test
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.tflite")
        tflite_export.export(qmodel, path, weight_storage="int8")
        report = tflite_export.verify(path, qmodel, x)
        file = path.read_bytes()
    names = [tensor.name for tensor in qmodel.latent_model.inputs]
    (outputs,) = interpreter.predict(file, [x], names)
    return [
        name,
        grid,
        f"{100 * training.evaluate(qmodel, 'test'):.2f}",
        f"{100 * CLASSIFICATION.score(x, outputs, y):.2f}",
        f"{100 * (report.top1_agreement or np.nan):.2f}",
        f"{100 * report.within_one_lsb:.2f}",
        f"{report.max_output_lsb:.0f}",
        f"{report.num_tensors - len(report.unequal)} of {report.num_tensors}",
    ]


def as_row(cells: "list[str] | tuple[str, ...]") -> str:
    """Returns a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
