"""Accuracy at equal instructions: zeros in blocks of output channels or not.

ARM's sparse kernels need fewer instructions for a weight where pairs or fours
of neighbouring output channels are zero together, so that such a network may
keep more weights. `accuracy` compresses one float network with each block and
each rate of zeros in its 1x1 convolutions, from several seeds, with equal
steps. `instructions` counts those of a MobileNetV1-0.5 at 96x96 with random
codes in the same pattern of zeros, which is all that the kernels see; it
needs `make arm`.

    python benchmarks/sparsity_block.py accuracy FLOAT.keras --dataset keywords
    python benchmarks/sparsity_block.py instructions
"""

import argparse
import importlib.metadata
import json
import platform
import tempfile
import time
from pathlib import Path

import data
import keras
import networks
import numpy as np

import codeq_keras
from codeq_keras import CoDeQConfig, CompressionBudget, QuantizedWeight

BATCH_SIZE = 32
RATE = 2e-3
MAX_CODE = 7
RUNS = ((1, 0.9), (2, 0.8), (1, 0.95), (2, 0.9), (4, 0.8), (4, 0.9))


def main() -> None:
    """Prints one JSON line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    accuracy = commands.add_parser("accuracy")
    accuracy.add_argument("model", type=Path, help="a float .keras file")
    accuracy.add_argument("--dataset", required=True, choices=data.DATASETS)
    accuracy.add_argument("--images", type=int, default=10_000)
    accuracy.add_argument("--epochs", type=int, default=1)
    accuracy.add_argument("--seeds", type=int, default=2)
    accuracy.set_defaults(run=measure_accuracy)
    instructions = commands.add_parser("instructions")
    instructions.set_defaults(run=measure_instructions)
    options = parser.parse_args()
    versions = {
        name: importlib.metadata.version(name)
        for name in ("keras", "tensorflow", "numpy")
    }
    print(f"{versions}, {platform.machine()}, synthetic data", flush=True)
    options.run(options)


def measure_accuracy(options: argparse.Namespace) -> None:
    """Compresses the model with each block, rate and seed."""
    model = keras.saving.load_model(options.model)
    splits = {
        split: data.load(options.dataset, split)
        for split in ("train", "validation", "test")
    }
    splits["train"] = tuple(a[: options.images] for a in splits["train"])
    for seed in range(options.seeds):
        for block, sparsity in RUNS:
            row = compress(model, splits, block, sparsity, seed, options.epochs)
            print(json.dumps(row), flush=True)


def compress(
    model: keras.Model,
    splits: dict,
    block: int,
    sparsity: float,
    seed: int,
    epochs: int,
) -> dict:
    """Returns the row of one training."""
    keras.utils.set_random_seed(seed)
    config = CoDeQConfig(
        bit_width=4, level_grid="uniform", sparsity_block=block
    )
    qmodel = codeq_keras.quantize_model(
        model, config, overrides={"^(?!.*pointwise)": None}
    )
    x, y = splits["train"]
    steps = epochs * -(-len(x) // BATCH_SIZE)
    qmodel.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(RATE, steps)
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    start = time.perf_counter()
    qmodel.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
        callbacks=[CompressionBudget(sparsity=sparsity)],
    )
    codeq_keras.reestimate_batch_norm(qmodel, np.split(x[:1024], 4))
    row = {"block": block, "budget": sparsity, "seed": seed, "steps": steps}
    for split in ("validation", "test"):
        _, accuracy = qmodel.evaluate(*splits[split], verbose=0)
        row[split] = round(accuracy, 4)
    weights = codeq_keras.quantized_weights(qmodel).values()
    row["zeros"] = mean_over_weights([w.codes == 0 for w in weights])
    for size in (2, 4):
        zero_blocks = [pruned_blocks(w.codes, size) for w in weights]
        row[f"zero_blocks_of_{size}"] = mean_over_weights(zero_blocks)
    row["seconds"] = round(time.perf_counter() - start)
    return row


def mean_over_weights(masks: list[np.ndarray]) -> float:
    """Returns the fraction that is true over all arrays together."""
    return round(float(np.mean(np.concatenate([m.ravel() for m in masks]))), 4)


def pruned_blocks(codes: np.ndarray, size: int) -> np.ndarray:
    """Returns which blocks of neighbouring output channels are zero."""
    channels = codes.shape[-1] - codes.shape[-1] % size
    blocks = codes[..., :channels].reshape(*codes.shape[:-1], -1, size)
    return np.all(blocks == 0, axis=-1)


def measure_instructions(options: argparse.Namespace) -> None:
    """Counts the instructions of each block and rate on ARM."""
    # Only this half needs the exporter, and `accuracy` also runs on JAX.
    from tflite_export import arm
    from tflite_export.exporting import export_stripped
    from tflite_export.format.flatbuffer import Flatbuffer
    from tflite_export.runtime import interpreter
    from tflite_export.samples import model_inputs, random_samples

    for block, sparsity in RUNS:
        keras.utils.set_random_seed(0)
        model = networks.mobilenet_v1(alpha=0.5, classes=10)
        trained = put_on_random_grid(model, block, sparsity)
        samples = random_samples(model_inputs(model), 8)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.tflite")
            export_stripped(
                model,
                trained,
                path,
                representative_dataset=samples,
                target="litert-sparse",
            )
            content = path.read_bytes()
        arrays = interpreter.quantized_inputs(
            Flatbuffer(content), samples, [s.name for s in model_inputs(model)]
        )
        counts = {
            cpu: arm.count_instructions(content, arrays, cpu=cpu)
            for cpu in arm.CPUS
        }
        row = {"block": block, "zeros": sparsity, "bytes": len(content)}
        print(json.dumps({**row, **counts}), flush=True)


def put_on_random_grid(
    model: keras.Model, block: int, sparsity: float
) -> dict[str, QuantizedWeight]:
    """Gives every 1x1 convolution random codes in blocks; returns them."""
    rng = np.random.default_rng(0)
    trained = {}
    for layer in model.layers:
        if "pointwise" not in layer.name:
            continue
        kernel = layer.kernel
        codes = rng.integers(1, MAX_CODE + 1, kernel.shape)
        codes *= rng.choice([-1, 1], codes.shape)
        kept = rng.random((codes.shape[2], codes.shape[3] // block)) >= sparsity
        codes *= np.repeat(kept, block, axis=1)
        fan_in = max(round(codes.shape[2] * (1 - sparsity)), 1)
        scale = np.float32(np.sqrt(2 / fan_in) / MAX_CODE)
        kernel.assign(codes * scale)
        trained[kernel.path] = QuantizedWeight(
            codes.astype(np.int8), scale, 4, None
        )
    return trained


if __name__ == "__main__":
    main()
