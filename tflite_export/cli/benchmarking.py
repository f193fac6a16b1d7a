"""`tflite-export benchmark`: measures files side by side."""

import argparse
from typing import Any

from tflite_export.cli.options import (
    add_command,
    add_html,
    add_labels,
    add_samples,
)
from tflite_export.cli.output import EXIT_OK, progress, show
from tflite_export.files import require_writable


def add_benchmark(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands, "benchmark", _benchmark, "measure .tflite files side by side"
    )
    command.add_argument(
        "files", nargs="+", help="the files; ratios are to the first one"
    )
    command.add_argument(
        "--target",
        action="append",
        metavar="TARGET",
        help="a device to measure on, repeatable (default: all but "
        "litert-sparse, which is measured as litert)",
    )
    add_samples(command)
    add_labels(command)
    command.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads here and on a phone (default: %(default)s)",
    )
    command.add_argument(
        "--benchmark-model",
        help="LiteRT's benchmark_model for an attached phone (default: the "
        "one in /data/local/tmp of the phone)",
    )
    command.add_argument("--plot", help="a PNG file to write as well")
    add_html(command)


def _benchmark(options: argparse.Namespace) -> int:
    with progress("Measuring"):
        from tflite_export.cli.loading import load_labels, load_samples
        from tflite_export.measuring.benchmark import DEFAULT_TARGETS, benchmark

        if options.plot is not None:
            require_writable(options.plot)
        report = benchmark(
            *options.files,
            targets=options.target or DEFAULT_TARGETS,
            samples=options.samples and load_samples(options.samples),
            labels=options.labels and load_labels(options.labels),
            num_threads=options.threads,
            benchmark_model=options.benchmark_model,
        )
        if options.plot is not None:
            report.plot(options.plot)
        if options.html is not None:
            report.to_html(options.html)
    show(options, report)
    return EXIT_OK
