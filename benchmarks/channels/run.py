"""Accuracy against multiply-accumulates: channels removed, and its rivals.

    python benchmarks channels --models fashion_resnet8 --shares 0.5 0.25 \
        --methods wide_qat narrow_scratch channels --seeds 0 1 2

Every finished run is one line of `channels_<model>.jsonl` and one model in
`models/`. A run that has a line is not repeated: the same command again only
writes the table and the picture anew. The score is that of the quantized model,
so of the integers that are deployed.

A seed decides the float network, the order of the data and a narrow network's
first weights. All rows of a seed have the same total epochs: those of the float
network and those after it, each on a cosine. A narrow network from scratch
spends both on itself; its widths are all scaled alike, to multiples of 8.
Uniform removal leaves the same widths. `..._few` is a float network that is
given, trained on with a tenth of its data; the narrow one sees that tenth only.
"""

import argparse
import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
from harness import cli, provenance, results, training

import codeq_keras
from channels import report
from channels.cases import CASES, Start, num_macs
from channels.methods import METHODS
from codeq_keras.deployment import find_kernels

SMOKE_EXAMPLES = 640
# Needs a file to be quantized: see `channel_files`.
ON_REQUEST = (
    "half_zeros",
    "narrow_float",
    "two_of_four",
    "uniform_distilled",
    "wide_qat_distilled",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What distinguishes one line of the results from another."""

    model: str
    method: str
    share: float
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its file."""
        share = f"{self.share:g}"
        return f"{self.model}_{self.method}_{share}_{self.epochs}_{self.seed}"


def main(argv: Sequence[str]) -> None:
    """Runs what is missing and writes the reports."""
    args = cli.parse(
        "channels",
        __doc__,
        argv,
        smoke={
            "models": ["fashion_mobilenet"],
            "methods": ["wide_qat", "narrow_scratch"],
            "shares": [0.5],
            "seeds": [0],
        },
        choices={"models": CASES, "methods": METHODS},
        models=list(CASES),
        methods=[name for name in METHODS if name not in ON_REQUEST],
        shares=[0.5, 0.25],
        seeds=[0, 1, 2],
    )
    for name in args.models:
        path = args.output / f"channels_{name}.jsonl"
        done = {run_of(line) for line in results.read(path)}
        for seed, group in itertools.groupby(
            runs(name, args), lambda run: run.seed
        ):
            missing = [run for run in group if run not in done]
            if not missing:
                continue
            limit = SMOKE_EXAMPLES if args.smoke else None
            start = Start.load(name, seed, args.output, limit)
            for run in missing:
                saved = model_path(run, args.output)
                results.append(path, execute(run, start, saved))
        report.write(path, CASES[name])


def runs(model: str, args: argparse.Namespace) -> Iterator[Run]:
    """Yields the runs that were asked for, one seed after the other."""
    epochs = epochs_of(model, args.smoke)
    found = {}
    for seed, share, method in itertools.product(
        args.seeds, args.shares, args.methods
    ):
        # A method that keeps all channels runs once for all.
        share = share if METHODS[method].has_share else 1.0
        found[Run(model, method, share, epochs, seed)] = None
    yield from found


def epochs_of(model: str, is_smoke: bool) -> int:
    """Returns the epochs after those in float."""
    return 1 if is_smoke else CASES[model].epochs


def run_of(line: dict[str, Any]) -> Run:
    """Returns the run that a line tells of."""
    return Run(**{f.name: line[f.name] for f in dataclasses.fields(Run)})


def execute(run: Run, start: Start, saved: Path) -> dict[str, Any]:
    """Carries out a run, saves its model, and returns its line."""
    keras.utils.set_random_seed(run.seed)
    begin = time.monotonic()
    model = METHODS[run.method].compress(start, run.epochs, run.share)
    seconds = time.monotonic() - begin
    training.save(model, saved)
    judge = start.training(run.epochs)
    return {
        **dataclasses.asdict(run),
        "test_score": judge.evaluate(model, "test"),
        "validation_score": judge.evaluate(model, "validation"),
        "float_score": judge.evaluate(start.net, "test"),
        **costs(model, start.net),
        "seconds": round(seconds, 1),
        "date": provenance.today(),
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
    }


def costs(model: keras.Model, wide: keras.Model) -> dict[str, Any]:
    """Returns MACs relative to the wide network, bytes and channels.

    The bytes are those that `report` estimates for the kernels; None in float.
    """
    is_quantized = isinstance(model, codeq_keras.QuantizedModel)
    size = codeq_keras.report(model).size_bytes if is_quantized else None
    plain = codeq_keras.strip_quantizers(model) if is_quantized else model
    return {
        "relative_macs": num_macs(plain) / num_macs(wide),
        "kernel_bytes": size,
        "channels": [
            kernel.variable.shape[-1]
            for kernel in find_kernels(plain)
            if "depthwise" not in kernel.path
        ],
    }


def model_path(run: Run, folder: Path) -> Path:
    """Returns the file of a run's model."""
    return folder / "models" / f"{run.name}.keras"
