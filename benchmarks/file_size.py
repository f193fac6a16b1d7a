"""Sizes of trained networks by target and storage, each file run.

    python benchmarks file_size [--models resnet8 ds_cnn digits]

`resnet8` and `ds_cnn` are trained on synthetic data to 80 % zeros at 4 bits.
The first row of each table is what TFLite's converter makes of the float
network, all int8; the files below it hold the trained integers, proven by
`export`, and are run in each target's runtime.

`digits` compares with TFMOT's own 8-bit scheme: one small network, trained in
float on scikit-learn's digits, is fine-tuned for the same number of steps with
each scheme, from each seed. Needs the extra `tfmot`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accuracy.run import Run, Start, trained_model
from harness import cli, files, provenance, results
from harness.workload import Arrays

import tflite_export
from tflite_export.conversion.converter import convert
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter
from tflite_export.samples import model_inputs

# Target and storage of each file.
EXPORTS = (
    ("litert", "int8"),
    ("litert", "auto"),
    ("litert", "int4"),
    ("tflm", "int8"),
    ("tflm", "lut"),
)
METHOD = "ours_zeros"
NUM_CALIBRATION = 256
NUM_TEST = 500
BASELINE = "converter_int8"
PACKAGES = ("tensorflow", "ai-edge-litert", "tflite-micro", "ethos-u-vela")
DIGITS = "digits"
DIGITS_COLUMNS = (
    "scheme",
    "accuracy, %",
    "agrees with Keras, %",
    "zeros, %",
    "int8, bytes",
    "auto, bytes",
    "int8 after gzip, bytes",
    "Vela, bits a weight",
)
# Zeros to reach in each scheme of ours; all have 4 bits.
DIGITS_ZEROS = (0.6, 0.8)
DIGITS_BATCH = 32


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, exports, measures and writes a table for each model."""
    args = parse_args(argv)
    parts = []
    for name in args.models:
        text = digits(args) if name == DIGITS else storages(name, args)
        print(text, flush=True)
        parts += [f"## {name}", text]
        results.write_page(
            args.output / "file_size.md",
            "Sizes of trained networks by target and storage",
            f"{provenance.line(*PACKAGES, seeds=args.seeds)}; {args.epochs} "
            "epochs; synthetic data, and the digits of scikit-learn. "
            f"`python benchmarks file_size`. `{BASELINE}` is the float network "
            f"as TFLite's converter quantizes it; accuracy in LiteRT on "
            f"{NUM_TEST} test samples. The digits: mean over the seeds.",
            *parts,
        )


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = cli.parser("file_size", __doc__, seeds=(0,))
    parser.add_argument(
        "--models",
        nargs="+",
        choices=("resnet8", "ds_cnn", DIGITS),
        default=["ds_cnn", "resnet8"],
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--targets",
        nargs="+",
        default=["litert", "tflm", "ethos-u"],
        help="as of `tflite_export.benchmark`",
    )
    smoke = {"models": ["ds_cnn"], "epochs": 1, "targets": ["tflm"]}
    return cli.parse(parser, argv, smoke)


def storages(name: str, args: argparse.Namespace) -> str:
    """Returns the tables of all files of a network, of the first seed."""
    start = Start.load(name, args)
    run = Run(name, METHOD, None, args.epochs, args.seeds[0])
    model = trained_model(run, start, args.output)
    images = start.split.train[0][:NUM_CALIBRATION]
    x, y = start.split.test
    not_exported = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{BASELINE}.tflite")]
        paths[0].write_bytes(
            convert(start.net, model_inputs(start.net), [images])
        )
        for target, storage in EXPORTS:
            path = Path(folder, f"{target}_{storage}.tflite")
            try:
                tflite_export.export(
                    model,
                    path,
                    target=target,
                    weight_storage=storage,
                    representative_dataset=images,
                )
            except ValueError as error:
                not_exported.append(f"- no {target} {storage}: {error}")
                continue
            paths.append(path)
        report = tflite_export.benchmark(
            *paths, targets=args.targets, samples=images[:16]
        )
        test = x[:NUM_TEST], y[:NUM_TEST]
        accuracies = [accuracy_of(path, test) for path in paths]
    return "\n".join([markdown(report, accuracies), *not_exported])


def accuracy_of(path: Path, test: Arrays) -> str:
    """Returns the accuracy in LiteRT; "-" where the file is not for it."""
    if path.stem.endswith("_lut"):  # Its outputs are those of the int8 file.
        return "-"
    return f"{np.mean(classes(path.read_bytes(), test[0]) == test[1]):.1%}"


def classes(data: bytes, x: np.ndarray) -> np.ndarray:
    """Returns the classes that a file predicts in LiteRT."""
    names = list(Flatbuffer(data).inputs())
    (logits,) = interpreter.predict(data, [x], names)
    return logits.argmax(-1)


def markdown(
    report: tflite_export.BenchmarkReport, accuracies: Sequence[str]
) -> str:
    """Returns all sections of a report as Markdown tables."""
    parts = ["; ".join(f"{k}: {v}" for k, v in report.machine.items())]
    for section in report.sections():
        columns, rows = section.columns, section.rows
        if section.title == "Size":
            columns = (*columns, "accuracy")
            rows = [
                (*row, accuracy)
                for row, accuracy in zip(rows, accuracies, strict=True)
            ]
        parts += [f"{section.title}:", results.table(columns, rows)]
    return "\n\n".join([*parts, "\n".join(f"- {x}" for x in report.not_run())])


# The comparison with TFMOT, in tf_keras.


def digits(args: argparse.Namespace) -> str:
    """Returns the table of all schemes, the mean over the seeds."""
    values: dict[str, list[Sequence[float]]] = {}
    for seed in args.seeds:
        for name, row in digits_rows(seed, args.epochs).items():
            values.setdefault(name, []).append(row)
    forms = ("{:.1%}",) * 3 + ("{:,.0f}",) * 3 + ("{:.2f}",)
    rows = []
    for name, found in values.items():
        means = np.mean(found, axis=0)
        cells = [f.format(v) for f, v in zip(forms, means, strict=True)]
        rows.append([name, *cells])
    return results.table(DIGITS_COLUMNS, rows)


def digits_rows(seed: int, epochs: int) -> dict[str, tuple[float, ...]]:
    """Returns the row of each scheme for one seed."""
    import tf_keras
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from tensorflow_model_optimization.quantization.keras import (
        quantize_annotate_model,
        quantize_apply,
    )

    from codeq_keras import CoDeQConfig
    from codeq_keras.tfmot import CoDeQScheme, CompressionBudget, report

    tf_keras.utils.set_random_seed(seed)
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    x, x_test, y, y_test = train_test_split(
        images, labels, test_size=0.3, random_state=0, stratify=labels
    )
    train, test = (x, y), (x_test, y_test)
    annotated = quantize_annotate_model(
        fit_digits(digits_network(), train, epochs)
    )
    default = fit_digits(quantize_apply(annotated), train, epochs)
    data = convert_as_tfmot(default)
    rows = {
        "TFMOT default, 8 bits": digits_row(data, default, test, 0, len(data))
    }
    scheme = CoDeQScheme(CoDeQConfig(bit_width=4))
    for zeros in DIGITS_ZEROS:
        model = quantize_apply(annotated, scheme=scheme)
        fit_digits(model, train, epochs, CompressionBudget(sparsity=zeros))
        data, auto = (
            files.to_bytes(
                tflite_export.export,
                model,
                weight_storage=storage,
                representative_dataset=x,
            )[0]
            for storage in ("int8", "auto")
        )
        rows[f"CoDeQ 4 bits, {100 * zeros:.0f} % zeros"] = digits_row(
            data, model, test, report(model).sparsity, len(auto)
        )
    return rows


def digits_network() -> Any:
    """Returns a network of 38,000 weights in tf_keras."""
    import tf_keras

    layers = tf_keras.layers

    def normalized(layer: Any) -> list[Any]:
        return [layer, layers.BatchNormalization(), layers.ReLU()]

    bare = {"padding": "same", "use_bias": False}
    return tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 1)),
            *normalized(layers.Conv2D(16, 3, **bare)),
            *normalized(layers.Conv2D(32, 3, strides=2, **bare)),
            *normalized(layers.DepthwiseConv2D(3, **bare)),
            layers.Conv2D(64, 3, padding="same", strides=2),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(48, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def fit_digits(model: Any, train: Arrays, epochs: int, *callbacks: Any) -> Any:
    """Trains a model along a cosine and returns it."""
    from tf_keras import optimizers

    steps = epochs * -(-len(train[0]) // DIGITS_BATCH)
    rate = optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(optimizers.Adam(rate), "sparse_categorical_crossentropy")
    options = {"epochs": epochs, "verbose": 0, "callbacks": list(callbacks)}
    model.fit(*train, DIGITS_BATCH, **options)
    return model


def convert_as_tfmot(model: Any) -> bytes:
    """Converts as TFMOT's guide does."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 1))])
    def predict(images: Any) -> Any:
        return model(images, training=False)

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [predict.get_concrete_function()], model
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return converter.convert()


def digits_row(
    data: bytes, model: Any, test: Arrays, zeros: float, auto_bytes: int
) -> tuple[float, ...]:
    """Returns the numbers of one row, in the order of the columns."""
    found = classes(data, test[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(data)
        [row] = tflite_export.benchmark(path, targets=["ethos-u"]).rows
    vela = row.measurements[0].values if row.measurements else {}
    return (
        float(np.mean(found == test[1])),
        float(np.mean(found == model.predict(test[0], verbose=0).argmax(-1))),
        zeros,
        len(data),
        auto_bytes,
        row.sizes.gzip_bytes,
        vela.get("bits_per_weight", float("nan")),
    )


if __name__ == "__main__":
    main()
