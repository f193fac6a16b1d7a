"""Does the report's SNR tell which kernels cost accuracy?

    python benchmarks advice [--models fashion_resnet8 ...]

The float networks are those of `channels`. Each kernel is quantized alone, to
so few bits that it shows, and BatchNorm is estimated anew, as by every `fit`. A
pair is two kernels that follow each other in the network. A number is right
about it if the kernel of lower SNR costs more on the test images: divergence
from the outputs in float, and accuracy. Pairs whose costs are within two
standard errors of each other do not count.

The numbers are those of 256 training images without labels: the SNR of the
weights, that of the layer's outputs (on the moments of its inputs), and that of
the model's outputs. Nothing is trained.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from channels.cases import CASES, Start
from harness import cli, provenance, results

import codeq_keras
from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.post_training.problems import Problem, make_problems

NUM_SAMPLES = 256
# Batches of these estimate BatchNorm anew.
NUM_ESTIMATED = 1024
SMOKE_EXAMPLES = 640
# The fewest bits with which no kernel alone takes the network to chance.
BITS = {"fashion_resnet8": 2, "shapes_resnet8": 2, "fashion_mobilenet": 3}
KINDS = ("weights", "layer", "model")
COLUMNS = (
    *("seed", "cost", "pairs beyond noise"),
    *("right by weights", "right by layer", "right by model"),
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a kernel that is quantized alone costs, on each test image.

    Attributes:
        path: The kernel.
        snrs: Its SNR by kind, in decibels.
        each: By the name of the cost, the cost of each image.
    """

    path: str
    snrs: dict[str, float]
    each: dict[str, np.ndarray]


def main(argv: Sequence[str]) -> None:
    """Judges the numbers on each network and writes a table for each."""
    args = cli.parse(
        "advice",
        __doc__,
        argv,
        smoke={"models": ["fashion_mobilenet"], "seeds": [0]},
        choices={"models": BITS},
        models=list(BITS),
        seeds=[0, 1, 2],
    )
    parts = []
    for name in args.models:
        found = {}
        for seed in args.seeds:
            limit = SMOKE_EXAMPLES if args.smoke else None
            start = Start.load(name, seed, args.output, limit)
            found[seed] = list(measure(start, BITS[name]))
        parts.append(section(name, found))
        results.write_page(
            args.output / "advice.md",
            "Which kernels cost accuracy",
            f"{provenance.line(seeds=args.seeds)}; {NUM_SAMPLES} samples "
            "without labels. One kernel at a time has few bits; of two that "
            "follow each other, that of lower SNR should cost more. "
            "Differences within two standard errors are noise.",
            *parts,
        )


def measure(start: Start, bit_width: int) -> Iterator[Cost]:
    """Yields what each kernel costs, in the order of the network."""
    config = codeq_keras.CoDeQConfig(
        bit_width, level_grid="uniform", axis=-1, range_quantile=1.0
    )
    x, y = start.split.test
    train = start.split.train[0]
    before = _log_probabilities(start.net, x)
    qmodel = codeq_keras.quantize_model(start.net, config)
    report = codeq_keras.report(qmodel, samples=train[:NUM_SAMPLES])
    problems = make_problems(
        ActivationGraph(qmodel.latent_model, rounds=False),
        qmodel.quantized_kernels,
        [train[:NUM_SAMPLES]],
    )
    for kernel, problem in zip(report.layers, problems, strict=True):
        alone = codeq_keras.quantize_model(
            start.net,
            config,
            overrides={f"^{kernel.path}$": config, "": None},
        )
        codeq_keras.reestimate_batch_norm(alone, [train[:NUM_ESTIMATED]])
        after = _log_probabilities(alone, x)
        divergence = np.sum(np.exp(before) * (before - after), axis=-1)
        yield Cost(
            kernel.path,
            {
                "weights": kernel.snr_db,
                "layer": layer_snr_db(problem),
                "model": kernel.output_snr_db,
            },
            {
                "divergence": divergence,
                "accuracy": 1.0 * (after.argmax(-1) != y.ravel()),
            },
        )


def layer_snr_db(problem: Problem) -> float:
    """Returns `E|w x|^2 / E|(w - q) x|^2` over a layer's outputs, in dB."""
    values = keras.ops.convert_to_numpy(problem.kernel.values())
    noise = problem.rows - problem.layout.rows(values)
    errors = np.sum((noise @ problem.hessian) * noise)
    return float(10 * np.log10(problem.energy / errors))


def _log_probabilities(model: keras.Model, x: np.ndarray) -> np.ndarray:
    logits = model.predict(x, batch_size=500, verbose=0)
    return keras.ops.convert_to_numpy(keras.ops.log_softmax(logits))


def judge(costs: Sequence[Cost], name: str) -> tuple[int, dict[str, int]]:
    """Returns how many pairs count, and of how many each kind is right."""
    num_pairs, right = 0, dict.fromkeys(KINDS, 0)
    for first, second in itertools.pairwise(costs):
        difference = first.each[name] - second.each[name]
        noise = difference.std() / np.sqrt(len(difference))
        mean = difference.mean()
        if abs(mean) <= 2 * noise:
            continue
        num_pairs += 1
        for kind in KINDS:
            is_lower = first.snrs[kind] < second.snrs[kind]
            right[kind] += is_lower == (mean > 0)
    return num_pairs, right


def section(name: str, found: dict[int, list[Cost]]) -> str:
    """Returns the table of a network."""
    rows: list[list[Any]] = []
    for cost in ("divergence", "accuracy"):
        total = np.zeros(1 + len(KINDS), int)
        for seed, costs in found.items():
            num_pairs, right = judge(costs, cost)
            counts = [num_pairs, *right.values()]
            rows.append([seed, cost, *counts])
            total += counts
        rows.append(["all", cost, *total])
    [first, *_] = found.values()
    return "\n\n".join(
        [
            f"## {CASES[name].note}; {BITS[name]} bits",
            f"{len(first)} kernels, {len(first) - 1} pairs.",
            results.table(COLUMNS, rows),
        ]
    )
