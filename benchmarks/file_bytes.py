"""Where the bytes of a file go: weights, scales, graph, names and the rest.

    python benchmarks file_bytes [--models resnet8 ds_cnn mobilenet_v1]

Random 4-bit codes with 80 % zeros: bytes do not depend on what was learned. The
proof of the export runs each file in its runtime. docs/file_size.md says which
of the bytes a runtime needs.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import networks
import numpy as np
from harness import cli, provenance, results
from harness.codes import give_random_codes

import codeq_keras
import tflite_export
from tflite_export.samples import model_inputs, random_samples

# Target, storage, and the suffix of the file that the device gets.
EXPORTS = (
    ("litert", "int8", ""),
    ("litert", "auto", ""),
    ("tflm", "int8", ""),
    ("tflm", "lut", ""),
    ("ethos-u", "int8", "_vela"),
)
ZEROS = 0.8
SEED, NUM_SAMPLES = 0, 8
# What a better code of weights would make smaller; the others are the rest.
WEIGHTS = ("weights", "indices", "tables", "compiled")
REST = ("scales", "zero points", "graph", "names", "metadata", "alignment")
COLUMNS = ("file", "bytes", "weights", "biases", "rest", *REST)


def main(argv: Sequence[str]) -> None:
    """Exports each network for each target and writes a table."""
    args = cli.parse(
        "file_bytes",
        __doc__,
        argv,
        smoke={"models": ["ds_cnn"]},
        models=["ds_cnn", "resnet8", "mobilenet_v1"],
    )
    tables = []
    for name in args.models:
        tables += [f"## {name}", results.table(COLUMNS, rows(name))]
        print("\n\n".join(tables[-2:]), flush=True)
    packages = ("tensorflow", "ai-edge-litert", "tflite-micro", "ethos-u-vela")
    results.write_page(
        args.output / "file_bytes.md",
        "Where the bytes of a file go",
        f"{provenance.line(*packages, seeds=[SEED])}; random 4-bit codes with "
        f"{ZEROS:.0%} zeros. `python benchmarks file_bytes`",
        "Weights have their indices and tables with them. The rest is the sum "
        "of the columns behind it.",
        *tables,
    )


def rows(name: str) -> list[tuple[str, ...]]:
    """Returns a row for each file of a network."""
    model, samples = quantized(name)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for target, storage, suffix in EXPORTS:
            path = Path(folder, f"{target}_{storage}.tflite")
            tflite_export.export(
                model,
                path,
                target=target,
                weight_storage=storage,
                representative_dataset=samples,
            )
            shipped = path.with_stem(path.stem + suffix)
            found.append(row(f"{target}, {storage}", shipped))
    return found


def quantized(name: str) -> tuple[keras.Model, np.ndarray]:
    """Returns a network with random codes, and random samples."""
    keras.utils.set_random_seed(SEED)
    net = getattr(networks, name)()
    give_random_codes(net, ZEROS, SEED)
    samples = random_samples(model_inputs(net), NUM_SAMPLES)
    # So that no activation dies, and channels have different scales.
    codeq_keras.reestimate_batch_norm(net, samples)
    config = codeq_keras.CoDeQConfig(bit_width=4, level_grid="uniform")
    return codeq_keras.quantize_model(net, config), samples


def row(name: str, path: Path) -> tuple[str, ...]:
    """Returns the bytes of a file by kind."""
    account = tflite_export.inspect(path).account
    kinds = account.by_kind if account else {}
    rest = [kinds.get(kind, 0) for kind in REST]
    weights = sum(kinds.get(kind, 0) for kind in WEIGHTS)
    total = sum(kinds.values())
    sizes = (total, weights, kinds.get("biases", 0), sum(rest), *rest)
    return (name, *(f"{size:,}" for size in sizes))
