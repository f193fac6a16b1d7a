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

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import keras
import networks
import numpy as np
from harness import cli, files, provenance, results
from harness.codes import SCALE, block_codes

import codeq_keras
import tflite_export
from codeq_keras.deployment import find_kernels
from tflite_export import arm
from tflite_export.conversion.converter import convert_float
from tflite_export.conversion.graphs import inference_graph
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter
from tflite_export.samples import model_inputs, random_samples
from tflite_export.targets.litert_storage import store_weights

Named = tuple[str, codeq_keras.QuantizedModel]
ALPHA = 0.5
NUM_CLASSES = 10
NUM_SAMPLES = 16
SEED = 0
CONFIG = codeq_keras.CoDeQConfig(bit_width=4, level_grid="uniform")
# Network, block, zeros: every network without blocks first.
RANDOM = (
    *(
        (name, 1, zeros)
        for zeros in (0.9, 0.8, 0.95)
        for name in ("mobilenet_v1", "mobilenet_v2")
    ),
    *(("mobilenet_v1", block, z) for block in (2, 4) for z in (0.8, 0.9)),
)
_MEASURES = [cell for name in (*arm.CPUS, "bytes") for cell in (name, "ratio")]
COLUMNS = ("network", "form", "zeros in 1x1", *_MEASURES, "difference")


def main(argv: Sequence[str]) -> None:
    """Measures all networks and writes a table."""
    name = "arm_instructions"
    args = cli.parse(name, __doc__, argv, smoke={}, trained=[Path])
    if arm.missing() is not None:
        raise SystemExit(arm.missing())
    paths = args.trained
    found = trained_networks(paths) if paths else random_networks()
    baselines: dict[str, list[int]] = {}
    rows: list[Sequence[str]] = []
    for title, qmodel in itertools.islice(found, 1 if args.smoke else None):
        for row in measure(title, qmodel, baselines):
            rows.append(row)
            print(results.table(COLUMNS, rows[-1:]), flush=True)
    results.write_page(
        args.output / f"{name}.md",
        "Instructions on ARM CPUs",
        f"{provenance.line('tensorflow', 'ai-edge-litert')}; QEMU user mode, "
        f"one thread; {paths or 'random weights'}. `python benchmarks {name}`",
        "Million instructions of one inference; ratios to dense int8. "
        "`difference` is the largest of the outputs to Keras on both CPUs, "
        "relative to the range of the outputs.",
        results.table(COLUMNS, rows),
    )


def trained_networks(paths: Sequence[Path]) -> Iterator[Named]:
    """Yields titles and the quantized networks of files."""
    for path in paths:
        yield path.stem, keras.saving.load_model(path, compile=False)


def random_networks() -> Iterator[Named]:
    """Yields titles and MobileNets with random codes."""
    for name, block, zeros in RANDOM:
        keras.utils.set_random_seed(SEED)
        net = getattr(networks, name)(
            alpha=ALPHA, input_shape=(96, 96, 3), classes=NUM_CLASSES
        )
        rng = np.random.default_rng(SEED)
        for kernel in find_kernels(net):
            shape = kernel.variable.shape
            if is_pointwise(shape):
                codes = block_codes(rng, shape, zeros, block)
                kernel.variable.assign(SCALE * codes)
        # So that no activation dies or explodes.
        images = random_samples(model_inputs(net), 2 * NUM_SAMPLES)
        codeq_keras.reestimate_batch_norm(net, images)
        title = f"{name}, random, blocks of {block}, {zeros:.0%}"
        yield title, codeq_keras.quantize_model(net, CONFIG)


def is_pointwise(shape: Sequence[int]) -> bool:
    """Whether a kernel is that of a 1x1 convolution or a Dense."""
    return len(shape) == 2 or tuple(shape[:2]) == (1, 1)


def measure(
    title: str,
    qmodel: codeq_keras.QuantizedModel,
    baselines: dict[str, list[int]],
) -> Iterator[list[str]]:
    """Yields a row for each form of the file.

    Dense forms only of an architecture that has no baseline: their kernels
    execute the same for all weights.
    """
    plain = codeq_keras.strip_quantizers(qmodel)
    inputs = model_inputs(plain)
    samples = random_samples(inputs, NUM_SAMPLES)
    write = partial(
        files.to_bytes,
        tflite_export.export,
        qmodel,
        representative_dataset=samples,
    )
    forms: dict[str, bytes] = {}
    if plain.name not in baselines:
        forms["int8"], _ = write(weight_storage="int8")
        packed = Flatbuffer(forms["int8"])
        # Not by `export`, which refuses it where 28 random layers blow up the
        # rounding of int4 kernels; their instructions are the same.
        store_weights(packed, "int4")
        forms["int4"] = packed.to_bytes()
        graph = inference_graph(plain)
        forms["float32"] = convert_float(graph, inputs, samples)
    forms["litert-sparse"], result = write(target="litert-sparse")
    weights = codeq_keras.quantized_weights(qmodel).values()
    codes = [w.codes.ravel() for w in weights if is_pointwise(w.codes.shape)]
    zeros = f"{np.mean(np.concatenate(codes) == 0):.1%}"
    for form, data in forms.items():
        arrays = interpreter.quantized_inputs(
            Flatbuffer(data), samples, [tensor.name for tensor in inputs]
        )
        counts = [arm.count_instructions(data, arrays, cpu=c) for c in arm.CPUS]
        found = [*counts, len(data)]
        # The int8 form comes first.
        baseline = baselines.setdefault(plain.name, found)
        cells = [f"{count / 1e6:.3f}" for count in counts] + [f"{len(data):,}"]
        ratios = [f"{n / b:.2f}" for n, b in zip(found, baseline, strict=True)]
        pairs = itertools.chain(*zip(cells, ratios, strict=True))
        is_sparse = form == "litert-sparse"
        largest = max(result.device.differences.values()) if is_sparse else None
        difference = "" if largest is None else f"{largest:.1e}"
        yield [title, form, zeros, *pairs, difference]
