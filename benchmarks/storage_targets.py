"""Sizes of trained networks by target and storage, each file run.

Reads the models that `benchmarks/train_models.py` has trained, 4 bits at 80 %
zeros, on synthetic data. The first row of each table is what TFLite's converter
makes of the float network, all int8; the files below it hold the trained
integers, proven by `export`, and are run in each target's runtime.

    python benchmarks/storage_targets.py [NAME ...] [--target TARGET ...]

Tables of the last run: `benchmarks/results/storage_targets.md`.
"""

import argparse
import datetime
import importlib.metadata
import pathlib
import platform
import tempfile

import data
import keras
import numpy as np

import tflite_export
from tflite_export.conversion.converter import convert
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.measuring.report import BenchmarkReport
from tflite_export.runtime import interpreter
from tflite_export.samples import model_inputs
from tflite_export.tables import Table, as_markdown

# Target and storage of each file.
EXPORTS = (
    ("litert", "int8"),
    ("litert", "auto"),
    ("litert", "int4"),
    ("tflm", "int8"),
    ("tflm", "lut"),
)
DATASETS = {"ds_cnn": "keywords", "resnet8": "shapes"}
NUM_CALIBRATION = 256
NUM_TEST = 500
BASELINE = "converter_int8"
PACKAGES = (
    "tensorflow",
    "keras",
    "ai-edge-litert",
    "tflite-micro",
    "ethos-u-vela",
)


def main() -> None:
    """Exports, measures and prints a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument(
        "--target", action="append", help="as of `tflite_export.benchmark`"
    )
    parser.add_argument(
        "--models",
        type=pathlib.Path,
        default=pathlib.Path("artifacts/models"),
    )
    arguments = parser.parse_args()
    names = arguments.names or sorted(
        path.stem
        for network in DATASETS
        for path in arguments.models.glob(f"{network}_80_*.keras")
    )
    versions = ", ".join(
        f"{package} {importlib.metadata.version(package)}"
        for package in PACKAGES
    )
    print(f"{datetime.date.today()}, {versions}, {platform.platform()}\n")
    for name in names:
        network = next(n for n in DATASETS if name.startswith(n))
        report, accuracies = run(
            arguments.models / f"{name}.keras",
            arguments.models / f"{network}_float.keras",
            DATASETS[network],
            arguments.target or ("litert", "tflm", "ethos-u"),
        )
        print(f"## {name}\n")
        print(markdown(report, accuracies), flush=True)


def run(
    path: pathlib.Path,
    float_path: pathlib.Path,
    dataset: str,
    targets: tuple[str, ...],
) -> tuple[BenchmarkReport, list[float | None]]:
    """Returns the report of all files of a model, and their accuracies."""
    model = keras.saving.load_model(path, compile=False)
    images = np.asarray(data.load(dataset, "train")[0][:NUM_CALIBRATION])
    test = tuple(np.asarray(a[:NUM_TEST]) for a in data.load(dataset, "test"))
    with tempfile.TemporaryDirectory() as folder:
        files = [pathlib.Path(folder, f"{BASELINE}.tflite")]
        float_model = keras.saving.load_model(float_path, compile=False)
        files[0].write_bytes(
            convert(float_model, model_inputs(float_model), [images])
        )
        for target, storage in EXPORTS:
            file = pathlib.Path(folder, f"{target}_{storage}.tflite")
            try:
                tflite_export.export(
                    model,
                    file,
                    target=target,
                    weight_storage=storage,
                    representative_dataset=images,
                )
            except ValueError as error:
                print(f"{path.stem}: no {target} {storage}: {error}\n")
                continue
            files.append(file)
        report = tflite_export.benchmark(
            *files, targets=targets, samples=images[:16]
        )
        accuracies = [accuracy(file, *test) for file in files]
    return report, accuracies


def accuracy(
    path: pathlib.Path, images: np.ndarray, labels: np.ndarray
) -> float | None:
    """Returns the share of right answers in LiteRT; None if it has no rows."""
    if path.stem.endswith("_lut"):  # Its outputs are those of the int8 file.
        return None
    file = path.read_bytes()
    names = list(Flatbuffer(file).inputs())
    (logits,) = interpreter.predict(file, [images], names)
    return float(np.mean(logits.argmax(axis=-1) == np.ravel(labels)))


def markdown(report: BenchmarkReport, accuracies: list[float | None]) -> str:
    """Returns all parts of a report as Markdown, with the accuracies."""
    parts = [
        _with_accuracy(part, accuracies)
        if isinstance(part, Table) and part.title == "Size"
        else part
        for part in report.parts()
    ]
    return f"{as_markdown(parts)}\n"


def _with_accuracy(sizes: Table, accuracies: list[float | None]) -> Table:
    rows = [
        (*row, "-" if a is None else f"{a:.1%}")
        for row, a in zip(sizes.rows, accuracies, strict=True)
    ]
    return sizes._replace(columns=(*sizes.columns, "accuracy"), rows=rows)


if __name__ == "__main__":
    main()
