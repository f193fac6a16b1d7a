"""From a float CNN to a verified int8 .tflite with 4-bit sparse weights.

Data: the UCI handwritten digits bundled with scikit-learn (1,797 images of
8x8 pixels), so nothing is downloaded. Takes about two minutes on two cores.
The numbers it printed last are in the README.

    python examples/quickstart.py [--seed 0] [--output artifacts] [--smoke]
"""

import argparse
import gzip
import pathlib
import time
import warnings

import keras
import numpy as np
import zstandard
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import codeq_keras
import tflite_export

RELATIVE_BOPS = 0.05
BIT_WIDTH = 4  # LiteRT's file stores zeros, not bits: "auto" would take 3.
BATCH_SIZE = 64
NUM_SAMPLES = 500


def main() -> None:
    """Trains, compresses, exports, verifies and prints one table."""
    args = parse_args()
    keras.utils.set_random_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    train, validation, test = load_data()

    print("1/5  Training the float CNN")
    model = build_model()
    fit(model, train, validation, epochs=args.epochs)

    print("2/5  CoDeQ without training: from 500 images, no labels")
    start = time.monotonic()
    untrained = codeq_keras.compress_post_training(
        model, train[0][:NUM_SAMPLES], relative_bops=RELATIVE_BOPS
    )
    seconds = time.monotonic() - start

    print("3/5  CoDeQ: learning which weights to drop, at 4 bits")
    qmodel = codeq_keras.quantize_model(
        model, codeq_keras.CoDeQConfig(bit_width=BIT_WIDTH)
    )
    budget = codeq_keras.CompressionBudget(relative_bops=RELATIVE_BOPS)
    history = fit(
        qmodel, train, validation, epochs=args.epochs, callbacks=[budget]
    )
    report = codeq_keras.report(qmodel)
    report.plot(args.output / "report.png")
    report.to_html(args.output / "report.html", history=history)
    (args.output / "report.txt").write_text(f"{report}\n")

    print("4/5  Exporting to int8 .tflite")
    name = f"without training, {seconds:.0f} s"
    rows = [
        ("float", model, float_tflite(model, args.output)),
        (name, untrained, export(untrained, "digits_untrained", args, train)),
        ("CoDeQ", qmodel, export(qmodel, "digits", args, train)),
    ]

    print("5/5  Verifying on the test set, in LiteRT")
    proof = tflite_export.verify(rows[-1][-1], qmodel, test[0])
    print_table(rows, proof, test, args.output)


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--smoke", action="store_true", help="one epoch")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("artifacts")
    )
    args = parser.parse_args()
    if args.smoke:
        args.epochs = 1
    return args


def load_data() -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns train, validation and test sets of the digits."""
    digits = load_digits()
    images = (digits.images / 16).astype("float32")[..., None]
    labels = digits.target
    x, x_test, y, y_test = train_test_split(
        images, labels, test_size=540, stratify=labels, random_state=0
    )
    x, x_val, y, y_val = train_test_split(
        x, y, test_size=180, stratify=y, random_state=0
    )
    return [(x, y), (x_val, y_val), (x_test, y_test)]


def build_model() -> keras.Model:
    """Returns a small CNN with depthwise and pointwise convolutions."""
    layers = keras.layers

    def normalized(convolution: keras.Layer) -> list[keras.Layer]:
        # 800 steps are too few for the default momentum of 0.99.
        norm = layers.BatchNormalization(momentum=0.9)
        return [convolution, norm, layers.ReLU()]

    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *normalized(layers.Conv2D(32, 3, padding="same", use_bias=False)),
            *normalized(
                layers.DepthwiseConv2D(3, padding="same", use_bias=False)
            ),
            *normalized(layers.Conv2D(96, 1, use_bias=False)),
            layers.MaxPooling2D(),
            *normalized(layers.Conv2D(128, 3, padding="same", use_bias=False)),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.2),
            layers.Dense(10),
        ]
    )


def fit(
    model: keras.Model,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    *,
    epochs: int,
    callbacks: list[keras.callbacks.Callback] | None = None,
) -> keras.callbacks.History:
    """Compiles and fits with a cosine learning rate."""
    num_steps = epochs * -(-len(train[0]) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, num_steps)
    model.compile(
        keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model.fit(
        *train,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_data=validation,
        callbacks=callbacks,
    )


def export(
    qmodel: keras.Model,
    name: str,
    args: argparse.Namespace,
    train: tuple[np.ndarray, np.ndarray],
) -> pathlib.Path:
    """Writes a quantized model as .tflite."""
    result = tflite_export.export(
        qmodel,
        args.output / f"{name}.tflite",
        target="litert",
        representative_dataset=train[0][:NUM_SAMPLES],
    )
    return result.path


def float_tflite(model: keras.Model, folder: pathlib.Path) -> pathlib.Path:
    """Writes the float model as .tflite, to compare sizes."""
    path = folder / "digits_float.tflite"
    with warnings.catch_warnings():
        # TensorFlow announces the successor of its own interpreter.
        warnings.simplefilter("ignore")
        model.export(path, format="litert", verbose=False)
    return path


def print_table(
    rows: list[tuple[str, keras.Model, pathlib.Path]],
    proof: tflite_export.VerificationReport,
    test: tuple[np.ndarray, np.ndarray],
    folder: pathlib.Path,
) -> None:
    """Prints accuracy, BOPs and bytes before and after."""
    table = Table(title=f"Digits, test set of {len(test[0])} images")
    columns = ["", "accuracy", "rel. BOPs", "zeros", "bytes", "gzip", "zstd"]
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")

    for name, net, path in rows:
        bops, zeros = "100%", "0%"
        if isinstance(net, codeq_keras.QuantizedModel):
            report = codeq_keras.report(net)
            bops, zeros = (
                f"{report.relative_bops:.2%}",
                f"{report.sparsity:.1%}",
            )
        accuracy = np.mean(
            net.predict(test[0], verbose=0).argmax(-1) == test[1]
        )
        table.add_row(name, f"{accuracy:.2%}", bops, zeros, *sizes(path))
    float_path, path = rows[0][-1], rows[-1][-1]
    console = Console()
    console.print(table)
    ratio = float_path.stat().st_size / path.stat().st_size
    console.print(
        f"File {ratio:.2f}x smaller than the float .tflite. Trained integers "
        f"in the file: {'all equal' if proof.codes_equal else 'DIFFERENT'}. "
        f"LiteRT and Keras agree on {proof.top1_agreement:.2%} of the images.\n"
        f"Wrote {path.name} and report.txt, .png and .html to {folder}/.",
        highlight=False,
    )


def sizes(path: pathlib.Path) -> list[str]:
    """Returns a file's bytes: plain, gzip, zstd."""
    data = path.read_bytes()
    packed = [data, gzip.compress(data, 9), zstandard.compress(data, 19)]
    return [f"{len(form):,}" for form in packed]


if __name__ == "__main__":
    main()
