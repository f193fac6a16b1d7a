"""Instructions of MobileNets on ARM: dense float and integers against sparse.

Needs `make arm`. Without `--models` the networks have random 4-bit codes, with
zeros at random places in the 1x1 convolutions and the Dense, at three rates:
kernels do not see what weights mean, only where the zeros are, so instructions
and bytes are near those of trained ones, and accuracy is no subject here.

    python benchmarks/sparse_inference.py [--models DIR] [--samples x.npy]

`--models` takes the quantized MobileNets in a folder (`mobilenet*.keras`, as
`train_models.py` leaves them). Instructions are not cycles. About 6 minutes of
two cores.
"""

import argparse
import importlib.metadata
import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import networks
import numpy as np

import codeq_keras
from tflite_export import arm, export
from tflite_export.conversion.converter import convert_float
from tflite_export.exporting import export_stripped
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter
from tflite_export.samples import model_inputs, random_samples
from tflite_export.targets.litert_sparse import target as litert_sparse
from tflite_export.targets.litert_storage import store_weights

INPUT_SHAPE = (96, 96, 3)
NUM_CLASSES = 10
ALPHA = 0.5
SPARSITIES = (0.9, 0.8, 0.95)
MAX_CODE = 7
NUM_SAMPLES = 16
SEED = 0
# The form that all others are compared with.
BASELINE = "int8"


class Network(NamedTuple):
    """A network whose weights are on the grid.

    `qmodel` is `None` for random weights, which were never trained.
    """

    name: str
    stripped: keras.Model
    trained: Mapping[str, Any]
    qmodel: Any = None


class Row(NamedTuple):
    """One file. `difference` is that of the outputs, of their range."""

    network: str
    form: str
    sparsity: float
    size_bytes: int
    instructions: Mapping[str, int]
    difference: float | None


def main() -> None:
    """Measures all networks and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, help="folder of .keras files")
    parser.add_argument("--samples", type=Path, help="inputs, a .npy file")
    options = parser.parse_args()
    if arm.missing() is not None:
        raise SystemExit(arm.missing())
    _print_setting(options)
    found = (
        random_networks()
        if options.models is None
        else trained_networks(options.models)
    )
    baselines: dict[str, Row] = {}
    for network in found:
        inputs = model_inputs(network.stripped)
        samples = (
            random_samples(inputs, NUM_SAMPLES)
            if options.samples is None
            else [np.load(options.samples)[:NUM_SAMPLES]]
        )
        # Dense kernels execute the same for all weights of an architecture.
        key = network.stripped.name
        for row in rows(network, samples, dense=key not in baselines):
            if row.form == BASELINE:
                baselines[key] = row
            _print_row(row, baselines[key])


def random_networks() -> Iterator[Network]:
    """Yields both MobileNets at each rate of zeros."""
    for sparsity in SPARSITIES:
        for build in (networks.mobilenet_v1, networks.mobilenet_v2):
            keras.utils.set_random_seed(SEED)
            model = build(
                alpha=ALPHA, input_shape=INPUT_SHAPE, classes=NUM_CLASSES
            )
            trained = put_on_random_grid(model, sparsity)
            samples = random_samples(model_inputs(model), 2 * NUM_SAMPLES)
            settle_batch_norms(model, samples[0])
            yield Network(f"{model.name}, random", model, trained)


def trained_networks(folder: Path) -> Iterator[Network]:
    """Yields the quantized MobileNets of a folder."""
    paths = sorted(folder.glob("mobilenet*.keras"))
    if not paths:
        raise SystemExit(f"Expected mobilenet*.keras in {str(folder)!r}.")
    for path in paths:
        qmodel = keras.saving.load_model(path)
        if not isinstance(qmodel, codeq_keras.QuantizedModel):
            print(f"{path.name}: skipped, it is not quantized")
            continue
        trained = codeq_keras.quantized_weights(qmodel)
        stripped = codeq_keras.strip_quantizers(qmodel)
        yield Network(path.stem, stripped, trained, qmodel)


def put_on_random_grid(
    model: keras.Model, sparsity: float
) -> dict[str, codeq_keras.QuantizedWeight]:
    """Gives every kernel random codes; returns them by path.

    Args:
        model: The network; its kernels are changed.
        sparsity: Fraction of zeros in 1x1 convolutions and Dense layers.
    """
    rng = np.random.default_rng(SEED)
    trained = {}
    for variable in model.weights:
        if "kernel" not in variable.name:
            continue
        codes = rng.integers(1, MAX_CODE + 1, variable.shape)
        codes *= rng.choice([-1, 1], codes.shape)
        is_dense = len(codes.shape) == 2
        fan_in = codes.size // codes.shape[-1]
        if is_dense or codes.shape[:2] == (1, 1):
            codes[rng.random(codes.shape) < sparsity] = 0
            fan_in = max(round(fan_in * (1 - sparsity)), 1)
        scale = np.float32(np.sqrt(2 / fan_in) / MAX_CODE)
        variable.assign(codes * scale)
        trained[variable.path] = codeq_keras.QuantizedWeight(
            codes.astype(np.int8), scale, 4, None
        )
    return trained


def settle_batch_norms(model: keras.Model, images: np.ndarray) -> None:
    """Measures the moving averages, so that no activation dies or explodes."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)


def rows(
    network: Network, samples: list[np.ndarray], *, dense: bool
) -> Iterator[Row]:
    """Yields a row for each form of the file.

    Args:
        network: The network.
        samples: One array for each input.
        dense: Whether to measure the dense forms too.
    """
    inputs = model_inputs(network.stripped)
    forms: dict[str, bytes] = {}
    if dense:
        # The baseline first, for the ratios of the others.
        forms[BASELINE], _ = _exported(network, samples, "litert", BASELINE)
        packed = Flatbuffer(forms[BASELINE])
        # Not by `export`, which refuses it where 28 random layers blow up the
        # rounding of int4 kernels; their instructions are the same.
        store_weights(packed, "int4")
        forms["int4"] = packed.to_bytes()
        forms["float32"] = convert_float(network.stripped, inputs, samples)
    forms["litert-sparse"], difference = _exported(
        network, samples, "litert-sparse", "auto"
    )
    sparse = Flatbuffer(forms["litert-sparse"])
    names = [spec.name for spec in inputs]
    for form, data in forms.items():
        arrays = interpreter.quantized_inputs(Flatbuffer(data), samples, names)
        yield Row(
            network.name,
            form,
            litert_sparse.zero_count(sparse).pointwise,
            len(data),
            {c: arm.count_instructions(data, arrays, cpu=c) for c in arm.CPUS},
            difference if form == "litert-sparse" else None,
        )


def _exported(
    network: Network, samples: list[np.ndarray], target: str, storage: str
) -> tuple[bytes, float]:
    """The file, and the largest difference of its outputs on ARM."""
    options: dict[str, Any] = {
        "representative_dataset": samples,
        "target": target,
        "weight_storage": storage,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        result = (
            export_stripped(network.stripped, network.trained, path, **options)
            if network.qmodel is None
            else export(network.qmodel, path, **options)
        )
        data = path.read_bytes()
    if not isinstance(result.device, litert_sparse.ArmReport):
        return data, 0.0
    return data, max(result.device.differences.values())


def _print_setting(options: argparse.Namespace) -> None:
    versions = {
        name: importlib.metadata.version(name)
        for name in ("keras", "tensorflow", "ai-edge-litert", "numpy")
    }
    print(f"versions: {versions}; QEMU user mode on {platform.machine()}")
    print(f"models: {options.models or f'random weights, seed {SEED}'}")
    print("million instructions of one inference, one thread")
    print(
        f"{'network':24} {'form':14} {'zeros':>6}"
        + "".join(f"{cpu:>11} {'ratio':>6}" for cpu in arm.CPUS)
        + f"{'bytes':>11} {'ratio':>6} {'difference':>11}",
        flush=True,
    )


def _print_row(row: Row, baseline: Row) -> None:
    text = f"{row.network:24} {row.form:14} {row.sparsity:6.1%}"
    for cpu, count in row.instructions.items():
        ratio = count / baseline.instructions[cpu]
        text += f"{count / 1e6:11.3f} {ratio:6.2f}"
    ratio = row.size_bytes / baseline.size_bytes
    text += f"{row.size_bytes:11,} {ratio:6.2f}"
    if row.difference is not None:
        text += f" {row.difference:11.1e}"
    print(text, flush=True)


if __name__ == "__main__":
    main()
