"""Instructions on ARM: dense float and integers against sparse, with blocks.

    python benchmarks arm_instructions [--trained FILE.keras ...]

Needs `make arm`. Without `--trained` the networks have random 4-bit codes, with
zeros in the 1x1 convolutions and the Dense, at random places and in blocks of
neighbouring output channels. The kernels see only where the zeros are, so
instructions and bytes are near those of trained networks, and accuracy is no
subject here. `--trained` takes quantized networks, such as `python benchmarks
accuracy --models mobilenet_v1_96 --methods ours_1x1 --save` leaves.
Instructions are not cycles. About 8 minutes of two cores.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import networks
import numpy as np
from harness import cli, files, provenance, results

import codeq_keras
import tflite_export
from tflite_export import arm
from tflite_export.conversion.converter import convert_float
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.samples import model_inputs, random_samples
from tflite_export.targets.litert_storage import store_weights

ALPHA = 0.5
NUM_CLASSES = 10
NUM_SAMPLES = 16
SEED = 0
# The form that all others are compared with.
BASELINE = "int8"
# Network, block, zeros: every network without blocks first.
RANDOM = (
    *(
        (name, 1, zeros)
        for zeros in (0.9, 0.8, 0.95)
        for name in ("mobilenet_v1", "mobilenet_v2")
    ),
    *(("mobilenet_v1", block, z) for block in (2, 4) for z in (0.8, 0.9)),
)
COLUMNS = (
    "network",
    "form",
    "zeros in 1x1",
    *(cell for cpu in arm.CPUS for cell in (cpu, "ratio")),
    "bytes",
    "ratio",
    "difference",
)


class Network(NamedTuple):
    """A network whose weights are on the grid.

    `export` writes it to a path, given the options of `tflite_export.export`.
    """

    name: str
    plain: keras.Model
    weights: Mapping[str, Any]
    export: Callable[..., Any]


class Row(NamedTuple):
    """One file. `difference` is that of the outputs, of their range."""

    network: str
    form: str
    zeros: float
    size_bytes: int
    instructions: Mapping[str, int]
    difference: float | None


def main(argv: Sequence[str] | None = None) -> None:
    """Measures all networks and writes a table."""
    args = cli.parse(
        "arm_instructions", __doc__, argv, smoke={}, trained=[Path]
    )
    if arm.missing() is not None:
        raise SystemExit(arm.missing())
    baselines: dict[str, Row] = {}
    rows: list[Sequence[str]] = []
    found = (
        trained_networks(args.trained) if args.trained else random_networks()
    )
    for network in found:
        samples = random_samples(model_inputs(network.plain), NUM_SAMPLES)
        # Dense kernels execute the same for all weights of an architecture.
        key = network.plain.name
        for row in measure(network, samples, dense=key not in baselines):
            if row.form == BASELINE:
                baselines[key] = row
            rows.append(cells(row, baselines[key]))
            print(results.table(COLUMNS, rows[-1:]), flush=True)
        if args.smoke:
            break
    results.write_page(
        args.output / "arm_instructions.md",
        "Instructions on ARM CPUs",
        f"{provenance.line('tensorflow', 'ai-edge-litert', seeds=[SEED])}; "
        f"QEMU user mode, one thread; {args.trained or 'random weights'}. "
        "`python benchmarks arm_instructions`",
        "Million instructions of one inference; ratios to dense int8. "
        "`difference` is the largest of the outputs to Keras on both CPUs, "
        "relative to the range of the outputs.",
        results.table(COLUMNS, rows),
    )


def random_networks() -> Iterator[Network]:
    """Yields MobileNets with random codes."""
    for name, block, zeros in RANDOM:
        keras.utils.set_random_seed(SEED)
        model = getattr(networks, name)(
            alpha=ALPHA, input_shape=(96, 96, 3), classes=NUM_CLASSES
        )
        rng = np.random.default_rng(SEED)
        codes = {
            variable.path: files.block_codes(rng, variable.shape, zeros, block)
            for variable in model.weights
            if "kernel" in variable.name and is_pointwise(variable.shape)
        }
        weights = files.put_on_grid(model, rng, codes=codes)
        settle_batch_norms(model)

        def export(
            path: Path,
            *,
            model: keras.Model = model,
            weights: Mapping[str, Any] = weights,
            **options: Any,
        ) -> Any:
            return files.export_random(model, weights, path, **options)

        title = f"{name}, random, blocks of {block}, {zeros:.0%}"
        yield Network(title, model, weights, export)


def trained_networks(paths: Sequence[Path]) -> Iterator[Network]:
    """Yields the quantized networks of files."""
    for path in paths:
        qmodel = keras.saving.load_model(path, compile=False)

        def export(
            path: Path, *, qmodel: keras.Model = qmodel, **options: Any
        ) -> Any:
            return tflite_export.export(qmodel, path, **options)

        yield Network(
            path.stem,
            codeq_keras.strip_quantizers(qmodel),
            codeq_keras.quantized_weights(qmodel),
            export,
        )


def is_pointwise(shape: Sequence[int]) -> bool:
    """Whether a kernel is that of a 1x1 convolution or a Dense."""
    return len(shape) == 2 or tuple(shape[:2]) == (1, 1)


def settle_batch_norms(model: keras.Model) -> None:
    """Measures the moving averages, so that no activation dies or explodes."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    [images] = random_samples(model_inputs(model), 2 * NUM_SAMPLES)
    model(images, training=True)


def measure(
    network: Network, samples: list[np.ndarray], *, dense: bool
) -> Iterator[Row]:
    """Yields a row for each form of the file; the dense ones if asked for."""
    forms: dict[str, bytes] = {}
    dataset = {"representative_dataset": samples}
    if dense:
        # The baseline first, for the ratios of the others.
        forms[BASELINE], _ = files.to_bytes(
            network.export, weight_storage=BASELINE, **dataset
        )
        packed = Flatbuffer(forms[BASELINE])
        # Not by `export`, which refuses it where 28 random layers blow up the
        # rounding of int4 kernels; their instructions are the same.
        store_weights(packed, "int4")
        forms["int4"] = packed.to_bytes()
        forms["float32"] = convert_float(
            network.plain, model_inputs(network.plain), samples
        )
    forms["litert-sparse"], result = files.to_bytes(
        network.export, target="litert-sparse", **dataset
    )
    codes = [
        weight.codes.ravel()
        for weight in network.weights.values()
        if is_pointwise(weight.codes.shape)
    ]
    for form, data in forms.items():
        is_sparse = form == "litert-sparse"
        yield Row(
            network.name,
            form,
            float(np.mean(np.concatenate(codes) == 0)),
            len(data),
            files.count_on_arm(data, network.plain, samples),
            max(result.device.differences.values()) if is_sparse else None,
        )


def cells(row: Row, baseline: Row) -> list[str]:
    """Returns a row of the table."""
    found = [row.network, row.form, f"{row.zeros:.1%}"]
    for cpu, count in row.instructions.items():
        ratio = count / baseline.instructions[cpu]
        found += [f"{count / 1e6:.3f}", f"{ratio:.2f}"]
    ratio = row.size_bytes / baseline.size_bytes
    found += [f"{row.size_bytes:,}", f"{ratio:.2f}"]
    return [*found, "" if row.difference is None else f"{row.difference:.1e}"]


if __name__ == "__main__":
    main()
