"""What fewer channels save on each device: networks before and after.

    python benchmarks channel_latency

Random weights, plain int8 files: the kernels see only the widths. A53 and A76
are instructions under QEMU (needs `make arm`), Ethos-U cycles are Vela's model
of the hardware, the arena is that of TensorFlow Lite Micro.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import keras
import networks
import numpy as np
from harness import cli, provenance, results

import codeq_keras
import tflite_export
from channels.cases import MULTIPLE, num_macs
from codeq_keras.architecture.channels import find_channels
from codeq_keras.architecture.narrowing import narrow_model
from tflite_export.conversion.converter import convert
from tflite_export.conversion.graphs import inference_graph
from tflite_export.measuring.report import BenchmarkRow
from tflite_export.samples import model_inputs, random_samples

SEED = 0
NUM_SAMPLES = 32
SHARE = 0.5
TARGETS = ("litert", "tflm", "ethos-u55-128", "ethos-u85-256")
# Title, device, result, divisor and digits of each column.
MEASURES = (
    ("A53, M", "cortex-a53", "instructions", 1e6, 2),
    ("A76, M", "cortex-a76", "instructions", 1e6, 2),
    ("U55-128, k cycles", "ethos-u55-128", "cycles", 1e3, 1),
    ("U85-256, k cycles", "ethos-u85-256", "cycles", 1e3, 1),
    ("arena, kB", "tflm", "arena_bytes", 1e3, 1),
    ("U55 SRAM, kB", "ethos-u55-128", "sram_bytes", 1e3, 1),
)
COLUMNS = ("network", "MACs, M", *(m[0] for m in MEASURES), "bytes")


Shrink = Callable[[keras.Model], keras.Model]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A network, and how channels are removed from it; the title says which."""

    title: str
    build: Callable[[], keras.Model]
    shrink: Shrink


def to_widths(widths: Mapping[int, int]) -> Shrink:
    """Keeps these many channels of each class of a size."""

    def shrink(net: keras.Model) -> keras.Model:
        channels = find_channels(net)
        kept = {
            number: np.arange(widths[channels.sizes[number]])
            for number in channels.free
            if channels.sizes[number] in widths
        }
        return narrow_model(net, channels, kept)

    return shrink


def to_share(
    net: keras.Model, share: float = SHARE, multiple: int = MULTIPLE
) -> keras.Model:
    """Removes channels as a budget on the MACs, without a training."""
    qmodel = codeq_keras.quantize_model(net, channel_multiple=multiple)
    qmodel.channel_gates.release()
    qmodel.channel_gates.settle(when=True, relative_macs=share)
    small = codeq_keras.remove_channels(qmodel)
    return codeq_keras.strip_quantizers(small)


PAIRS = {
    "resnet8": Pair(
        "ResNet-8, 16/32/64 -> 8/24/56",
        networks.resnet8,
        to_widths({16: 8, 32: 24, 64: 56}),
    ),
    "resnet8_late": Pair(
        "ResNet-8, 16/32/64 -> 8/32/32",
        networks.resnet8,
        to_widths({16: 8, 64: 32}),
    ),
    "resnet8_16": Pair(
        # 54 % is the least: the class of 16 channels keeps all.
        "ResNet-8, 16/32/64 -> 16/16/16, by multiples of 16",
        networks.resnet8,
        partial(to_share, share=0.54, multiple=16),
    ),
    "ds_cnn": Pair("DS-CNN, 64 -> 48", networks.ds_cnn, to_widths({64: 48})),
    "mobilenet_v2": Pair(
        "MobileNetV2-0.35 at 96x96, to 50 % of the MACs",
        partial(networks.mobilenet_v2, input_shape=(96, 96, 3), alpha=0.35),
        to_share,
    ),
}


def main(argv: Sequence[str]) -> None:
    """Measures all pairs and writes a table."""
    args = cli.parse(
        "channel_latency",
        __doc__,
        argv,
        smoke={"models": ["ds_cnn"], "targets": ["tflm"]},
        choices={"models": PAIRS, "targets": TARGETS},
        models=list(PAIRS),
        targets=list(TARGETS),
    )
    rows: list[Sequence[str]] = []
    for name in args.models:
        rows += measure(PAIRS[name], args.targets)
        print(results.table(COLUMNS, rows[-3:]), flush=True)
    results.write_page(
        args.output / "channel_latency.md",
        "Fewer channels on each device",
        f"{provenance.line('tensorflow', 'ai-edge-litert', 'ethos-u-vela')}; "
        "random weights, int8. `python benchmarks channel_latency`",
        "Instructions of one inference under QEMU, one thread; cycles by "
        "Vela's model of the hardware, not by silicon; the arena is that of "
        "TensorFlow Lite Micro on a 64-bit host.",
        results.table(COLUMNS, rows),
    )


def measure(pair: Pair, targets: Sequence[str]) -> list[list[str]]:
    """Returns the rows before, after, and of their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        paths, macs = [], []
        keras.utils.set_random_seed(SEED)
        wide = pair.build()
        nets = {"before": wide, "after": pair.shrink(wide)}
        for state, net in nets.items():
            path = Path(folder, f"{state}.tflite")
            path.write_bytes(int8_file(net))
            paths.append(path)
            macs.append(num_macs(net))
        report = tflite_export.benchmark(*paths, targets=targets)
    before, after = (
        [count, *numbers(row)]
        for count, row in zip(macs, report.rows, strict=True)
    )
    ratios = [
        "-" if a is None or not b else f"{a / b:.2f}"
        for b, a in zip(before, after, strict=True)
    ]
    return [
        [pair.title, *cells(before)],
        ["after", *cells(after)],
        ["ratio", *ratios],
    ]


def int8_file(net: keras.Model) -> bytes:
    """Returns the int8 file of a plain network, with random inputs' ranges."""
    inputs = model_inputs(net)
    samples = random_samples(inputs, NUM_SAMPLES)
    return convert(inference_graph(net), inputs, samples)


def numbers(row: BenchmarkRow) -> list[float | None]:
    """Returns the results of a file in the order of the columns."""
    found = [row.values(device).get(key) for _, device, key, _, _ in MEASURES]
    return [*found, row.sizes.file_bytes]


def cells(values: Sequence[float | None]) -> list[str]:
    """Returns the MACs and what `numbers` returns, in the columns' units."""
    scales = [(1e6, 2), *((m[3], m[4]) for m in MEASURES), (1, 0)]
    return [
        "-" if value is None else f"{value / divisor:,.{digits}f}"
        for value, (divisor, digits) in zip(values, scales, strict=True)
    ]
