"""The files of `channels`: accuracy, bytes, instructions and memory together.

    python benchmarks channel_files --models fashion_mobilenet

A newcomer's question: is it better than a narrower network with TensorFlow
Lite's plain int8 quantization after training? Takes the models that
`python benchmarks channels` left in `--output`; `narrow_float` is to be named
there. Every finished file is one line of `channel_files_<model>.jsonl`.
Instructions need `make arm`.
"""

import dataclasses
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from accuracy.report import values
from harness import cli, provenance, results

import codeq_keras
import tflite_export
from channels.cases import CASES, Start
from channels.methods import METHODS
from channels.run import SMOKE_EXAMPLES, Run, epochs_of, model_path
from tflite_export.conversion.converter import convert
from tflite_export.conversion.graphs import inference_graph
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter
from tflite_export.samples import model_inputs

# The wide float network, quantized after training.
WIDE_FLOAT = "wide_float"
NUM_CALIBRATION = 500
# Key, title, divisor and digits.
MEASURES = (
    ("test_score", "accuracy, %", 0.01, 2),
    ("size_bytes", "bytes", 1, 0),
    ("gzip_bytes", "gzip", 1, 0),
    ("a53", "A53, k", 1e3, 0),
    ("flash_bytes", "MCU flash", 1, 0),
    ("arena_bytes", "arena", 1, 0),
)
COLUMNS = ("network", "share", *(m[1] for m in MEASURES), "seeds")
Line = dict[str, Any]


def main(argv: Sequence[str]) -> None:
    """Exports and measures what is missing, and writes a table."""
    args = cli.parse(
        "channel_files",
        __doc__,
        argv,
        smoke={"methods": [WIDE_FLOAT], "seeds": [0]},
        choices={"models": CASES, "methods": (WIDE_FLOAT, *METHODS)},
        models=["fashion_mobilenet"],
        methods=[WIDE_FLOAT, "narrow_float", "wide_qat", "channels_distilled"],
        shares=[0.5, 0.25],
        seeds=[0, 1, 2],
    )
    for name in args.models:
        path = args.output / f"channel_files_{name}.jsonl"
        done = {_key(line) for line in results.read(path)}
        for seed in args.seeds:
            limit = SMOKE_EXAMPLES if args.smoke else None
            start = Start.load(name, seed, args.output, limit)
            for method, share in wanted(args.methods, args.shares):
                if (method, share, seed) in done:
                    continue
                epochs = epochs_of(name, args.smoke)
                run = Run(name, method, share, epochs, seed)
                model = find_model(run, start, args.output)
                line = dataclasses.asdict(run) | measure(model, start)
                results.append(path, line)
        write(path, name)


def wanted(
    methods: Sequence[str], shares: Sequence[float]
) -> list[tuple[str, float]]:
    """Returns methods and shares; those without a share keep all MACs."""
    pairs = itertools.product(methods, shares)
    return list(
        dict.fromkeys(
            (m, s if m in METHODS and METHODS[m].has_share else 1.0)
            for m, s in pairs
        )
    )


def find_model(run: Run, start: Start, folder: Path) -> keras.Model:
    """Returns the model of a run, which is there already."""
    if run.method == WIDE_FLOAT:
        return start.net
    path = model_path(run, folder)
    if not path.exists():
        raise SystemExit(
            f"Expected {path}. `python benchmarks channels --models "
            f"{run.model} --methods {run.method} --shares {run.share:g} "
            f"--seeds {run.seed}` makes it."
        )
    return keras.saving.load_model(path, compile=False)


def measure(model: keras.Model, start: Start) -> Line:
    """Returns the results of the files of a model.

    A quantized one has a file for phones and one for microcontrollers; a float
    one has one, quantized after training.
    """
    images = start.split.train[0][:NUM_CALIBRATION]
    x, y = start.split.test
    with tempfile.TemporaryDirectory() as folder:
        phone, chip = Path(folder, "phone.tflite"), Path(folder, "chip.tflite")
        if isinstance(model, codeq_keras.QuantizedModel):
            tflite_export.export(model, phone, representative_dataset=images)
            tflite_export.export(
                model, chip, target="tflm", representative_dataset=images
            )
        else:
            graph, inputs = inference_graph(model), model_inputs(model)
            phone.write_bytes(convert(graph, inputs, [images]))
            chip = phone
        options = {"samples": images[:8]}
        [row] = tflite_export.benchmark(
            phone, targets=["litert"], **options
        ).rows
        [small] = tflite_export.benchmark(
            chip, targets=["tflm"], **options
        ).rows
        data = phone.read_bytes()
    [logits] = interpreter.predict(
        data, [x], list(Flatbuffer(data).inputs())
    ).values()
    return {
        "test_score": float(np.mean(logits.argmax(-1) == y)),
        "size_bytes": row.sizes.file_bytes,
        "gzip_bytes": row.sizes.gzip_bytes,
        "a53": row.values("cortex-a53").get("instructions"),
        "flash_bytes": small.values("tflm").get("flash_bytes"),
        "arena_bytes": small.values("tflm").get("arena_bytes"),
    }


def write(path: Path, name: str) -> None:
    """Writes a table next to a file of results."""
    lines = results.read(path)
    order = (WIDE_FLOAT, *METHODS)

    def place(line: Line) -> tuple[int, float]:
        return order.index(line["method"]), -line["share"]

    groups = itertools.groupby(sorted(lines, key=place), place)
    results.write_page(
        path.with_suffix(".md"),
        f"Files: {CASES[name].note}",
        f"{provenance.line('tensorflow', 'ai-edge-litert', 'tflite-micro')}. "
        "Mean ± standard deviation over the seeds. Networks in float are "
        "quantized to int8 after training, all others as trained. Accuracy is "
        "that of the file in LiteRT. `python benchmarks channel_files`",
        results.table(COLUMNS, [_row(list(group)) for _, group in groups]),
    )


def _row(group: Sequence[Line]) -> list[str]:
    first = group[0]
    is_named = first["method"] in METHODS
    label = METHODS[first["method"]].label if is_named else "Wide, float"
    cells = []
    for key, _, divisor, digits in MEASURES:
        found = values(group, key)
        is_complete = None not in found
        cells.append(
            results.mean_and_deviation(found / divisor, digits)
            if is_complete
            else "-"
        )
    seeds = ", ".join(str(line["seed"]) for line in group)
    return [label, f"{first['share']:g}", *cells, seeds]


def _key(line: Line) -> tuple[str, float, int]:
    return line["method"], line["share"], line["seed"]
