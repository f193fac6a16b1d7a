"""Sizes of trained networks by target and storage, each file run.

    python benchmarks file_size [--models resnet8 ds_cnn] [--tfmot]

The networks are trained on synthetic data to 80 % zeros at 4 bits;
`--methods ours_zeros ours_ternary` adds 2 bits. The first row of each table is
what TFLite's converter makes of the float network, all int8; the files below it
hold the trained integers, proven by `export`, and are run in each target's
runtime.

`--tfmot` compares with TFMOT's own 8-bit scheme: the same float network is
fine-tuned for the same number of steps with each scheme. Needs the extra
`tfmot`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accuracy.methods import METHODS
from accuracy.run import Run, Start, trained_model
from harness import cli, files, provenance, results
from harness.training import Batches
from harness.workload import Arrays

import tflite_export
from tflite_export.conversion.converter import convert
from tflite_export.conversion.graphs import inference_graph
from tflite_export.format.flatbuffer import Flatbuffer
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
    ("tflm", "huffman"),
    ("tflm", "auto"),
)
# LiteRT does not run them.
PACKED = ("tflm_lut", "tflm_huffman", "tflm_auto")
NUM_CALIBRATION = 256
NUM_TEST = 500
BASELINE = "converter_int8"
PACKAGES = ("tensorflow", "ai-edge-litert", "tflite-micro", "ethos-u-vela")
TFMOT_COLUMNS = (
    *("scheme", "accuracy", "agrees with Keras", "zeros", "int8, bytes"),
    *("auto, bytes", "int8 after gzip, bytes", "Vela, bits a weight"),
)
TFMOT_ZEROS = (0.6, 0.8)
TFMOT_RATE = 2e-3


def main(argv: Sequence[str]) -> None:
    """Trains, exports, measures and writes a table for each model."""
    args = cli.parse(
        "file_size",
        __doc__,
        argv,
        smoke={"models": ["ds_cnn"], "epochs": 1, "targets": ["tflm"]},
        models=["ds_cnn", "resnet8"],
        choices={"methods": METHODS},
        methods=["ours_zeros"],
        epochs=20,
        targets=["litert", "tflm", "ethos-u"],
        tfmot=False,
    )
    parts: list[str] = []
    for name in args.models:
        start = Start.load(name, args)
        for method in args.methods:
            title = f"## {name}, {METHODS[method].label}"
            parts += [title, storages(name, method, start, args)]
        if args.tfmot:
            parts += ["In TFMOT:", beside_tfmot(start, args.epochs)]
        print("\n\n".join(parts), flush=True)
        results.write_page(
            args.output / "file_size.md",
            "Sizes of trained networks by target and storage",
            f"{provenance.line(*PACKAGES)}; {args.epochs} epochs; synthetic "
            f"data. `python benchmarks file_size`. `{BASELINE}` is the float "
            "network as TFLite's converter quantizes it; accuracy in LiteRT "
            f"on {NUM_TEST} test samples.",
            *parts,
        )


def storages(
    name: str, method: str, start: Start, args: argparse.Namespace
) -> str:
    """Returns the tables of all files of a network."""
    run = Run(name, method, None, args.epochs, seed=0)
    model = trained_model(run, start, args.output)
    images = start.split.train[0][:NUM_CALIBRATION]
    x, y = start.split.test
    not_exported = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{BASELINE}.tflite")]
        graph, inputs = inference_graph(start.net), model_inputs(start.net)
        paths[0].write_bytes(convert(graph, inputs, [images]))
        for target, storage in EXPORTS:
            path = Path(folder, f"{target}_{storage}.tflite")
            options = {"target": target, "weight_storage": storage}
            try:
                tflite_export.export(
                    model, path, representative_dataset=images, **options
                )
            except ValueError as error:
                not_exported.append(f"no {target} {storage}: {error}")
                continue
            paths.append(path)
        report = tflite_export.benchmark(
            *paths, targets=args.targets, samples=images[:16]
        )
        test = x[:NUM_TEST], y[:NUM_TEST]
        rows = [(path.name, accuracy_of(path, test)) for path in paths]
    accuracies = Table("Accuracy in LiteRT", ("file", "accuracy"), rows)
    return as_markdown([*report.parts(), accuracies, *not_exported])


def accuracy_of(path: Path, test: Arrays) -> str:
    """Returns the accuracy in LiteRT; "-" where the file is not for it."""
    if path.stem in PACKED:  # Its outputs are those of the int8 file.
        return "-"
    return f"{np.mean(classes(path.read_bytes(), test[0]) == test[1]):.1%}"


def classes(data: bytes, x: np.ndarray) -> np.ndarray:
    """Returns the classes that a file predicts in LiteRT."""
    names = list(Flatbuffer(data).inputs())
    (logits,) = interpreter.predict(data, [x], names).values()
    return logits.argmax(-1)


def beside_tfmot(start: Start, epochs: int) -> str:
    """Returns the table of TFMOT's own 8 bits and ours, in tf_keras."""
    from baselines.tfmot_pqat import fit
    from tensorflow_model_optimization.quantization.keras import (
        quantize_annotate_model,
        quantize_apply,
    )

    from codeq_keras import CoDeQConfig, tfmot

    def trained(callbacks: Sequence[Any] = (), **options: Any) -> Any:
        model = quantize_apply(annotated, **options)
        batches = Batches(*start.split.train, seed=0)
        fit(model, batches, epochs, TFMOT_RATE, list(callbacks))
        return model

    annotated = quantize_annotate_model(tfmot.to_tf_keras(start.net))
    default = trained()
    file = convert_as_tfmot(default, start.net.inputs[0].shape[1:])
    rows = [tfmot_row("TFMOT, 8 bits", default, start, 0.0, file, file)]
    scheme = tfmot.CoDeQScheme(CoDeQConfig(bit_width=4))
    for zeros in TFMOT_ZEROS:
        budget = tfmot.CompressionBudget(sparsity=zeros)
        model = trained([budget], scheme=scheme)
        write = partial(
            files.to_bytes,
            tflite_export.export,
            model,
            representative_dataset=start.split.train[0][:NUM_CALIBRATION],
        )
        names = ("int8", "auto")
        sizes = [write(weight_storage=name)[0] for name in names]
        reached = tfmot.report(model).sparsity
        rows.append(tfmot_row("CoDeQ, 4 bits", model, start, reached, *sizes))
    return results.table(TFMOT_COLUMNS, rows)


def convert_as_tfmot(model: Any, shape: Sequence[int]) -> bytes:
    """Converts as TFMOT's guide does."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((1, *shape))])
    def predict(x: Any) -> Any:
        return model(x, training=False)

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [predict.get_concrete_function()], model
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return converter.convert()


def tfmot_row(
    name: str, model: Any, start: Start, zeros: float, int8: bytes, auto: bytes
) -> tuple[str, ...]:
    """Returns a row, in the order of the columns."""
    x, y = (array[:NUM_TEST] for array in start.split.test)
    found = classes(int8, x)
    same = found == model.predict(x, verbose=0).argmax(-1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(int8)
        [row] = tflite_export.benchmark(path, targets=["ethos-u"]).rows
    vela = row.measurements[0].values if row.measurements else {}
    bits = vela.get("bits_per_weight", float("nan"))
    shares = (np.mean(found == y), np.mean(same), zeros)
    sizes = (len(int8), len(auto), row.sizes.gzip_bytes)
    return (
        name,
        *(f"{share:.1%}" for share in shares),
        *(f"{size:,}" for size in sizes),
        f"{bits:.2f}",
    )
