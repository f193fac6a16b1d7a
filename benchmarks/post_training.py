"""Accuracy without training: pruned and rounded from samples alone.

    python benchmarks post_training [--models fashion_resnet8 ...]

The float networks are those of `channels`. "Nearest level" keeps the largest
weights of each kernel, the same part of all, rounds each to its nearest level,
and estimates BatchNorm anew on the same samples; "fitted" is
`compress_post_training`. Both have one scale per channel on the uniform grid,
and activations in float. The samples are the first training images, without
labels. Nothing is trained.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from channels.cases import CASES, Start
from harness import cli, provenance, results

import codeq_keras
from codeq_keras.deployment import copy_model, find_kernels

NUM_SAMPLES = 1000
SMOKE_EXAMPLES = 640
NAMES = ("fashion_resnet8", "fashion_mobilenet")
COLUMNS = (
    *("weights", "relative BOPs", "nearest level, %", "fitted, %"),
    *("fitted: zeros", "seconds"),
)


@dataclasses.dataclass(frozen=True)
class Form:
    """Bits, and the relative BOPs to reach; None for dense weights."""

    bit_width: int
    relative_bops: float | None = None

    @property
    def label(self) -> str:
        """Its name in the table."""
        kind = "dense" if self.relative_bops is None else "pruned"
        return f"{self.bit_width} bits, {kind}"


FORMS = (
    *(Form(4), Form(3), Form(2)),
    *(Form(4, 0.05), Form(3, 0.05), Form(3, 0.035), Form(3, 0.025)),
)


def main(argv: Sequence[str]) -> None:
    """Compresses each network in each form and writes a table for each."""
    args = cli.parse(
        "post_training",
        __doc__,
        argv,
        smoke={"models": ["fashion_mobilenet"], "seeds": [0]},
        choices={"models": NAMES},
        models=list(NAMES),
        seeds=[0, 1, 2],
    )
    parts = []
    for name in args.models:
        lines = []
        for seed in args.seeds:
            limit = SMOKE_EXAMPLES if args.smoke else None
            lines += list(measure(Start.load(name, seed, args.output, limit)))
        parts.append(section(name, lines))
        results.write_page(
            args.output / "post_training.md",
            "Accuracy without training",
            f"{provenance.line(seeds=args.seeds)}; {NUM_SAMPLES:,} samples "
            "without labels; test accuracy, mean ± standard deviation.",
            *parts,
        )


def measure(start: Start) -> Iterator[dict[str, Any]]:
    """Yields a line for each form."""
    judge = start.training(1)
    samples = start.split.train[0][:NUM_SAMPLES]
    score = judge.evaluate(start.net, "test")
    for form in FORMS:
        begin = time.monotonic()
        fitted = codeq_keras.compress_post_training(
            start.net,
            samples,
            config(form),
            relative_bops=form.relative_bops,
            verbose=0,
        )
        seconds = time.monotonic() - begin
        report = codeq_keras.report(fitted)
        nearest = nearest_level(start.net, samples, form)
        yield {
            "form": form,
            "float": score,
            "nearest": judge.evaluate(nearest, "test"),
            "fitted": judge.evaluate(fitted, "test"),
            "relative_bops": report.relative_bops,
            "sparsity": report.sparsity,
            "seconds": seconds,
        }


def config(form: Form) -> codeq_keras.CoDeQConfig:
    """Returns the config of a form, for both ways."""
    return codeq_keras.CoDeQConfig(
        form.bit_width, level_grid="uniform", axis=-1, range_quantile=1.0
    )


def nearest_level(
    net: keras.Model, samples: np.ndarray, form: Form
) -> codeq_keras.QuantizedModel:
    """Returns a model of the largest weights, each at its nearest level."""
    pruned = copy_model(net)
    if form.relative_bops is not None:
        density = min(1.0, form.relative_bops * 32 / form.bit_width)
        for kernel in find_kernels(pruned):
            weights = keras.ops.convert_to_numpy(kernel.variable)
            edge = np.quantile(np.abs(weights), 1.0 - density)
            kernel.variable.assign(np.where(np.abs(weights) < edge, 0, weights))
    qmodel = codeq_keras.quantize_model(pruned, config(form))
    codeq_keras.reestimate_batch_norm(qmodel, [samples])
    return qmodel


def section(name: str, lines: Sequence[dict[str, Any]]) -> str:
    """Returns the table of a network."""
    rows = []
    for form in FORMS:
        group = [line for line in lines if line["form"] == form]

        def column(key: str, group: Any = group) -> list[float]:
            return [line[key] for line in group]

        def percent(key: str, group: Any = group) -> str:
            values = [100 * line[key] for line in group]
            return results.mean_and_deviation(values)

        rows.append(
            (
                form.label,
                f"{np.mean(column('relative_bops')):.1%}",
                percent("nearest"),
                percent("fitted"),
                f"{np.mean(column('sparsity')):.0%}",
                results.median_and_range(column("seconds"), 1),
            )
        )
    scores = [100 * line["float"] for line in lines if line["form"] == FORMS[0]]
    return "\n\n".join(
        [
            f"## {CASES[name].note}",
            f"In float {results.mean_and_deviation(scores)} %.",
            results.table(COLUMNS, rows),
        ]
    )
