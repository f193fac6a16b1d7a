"""`tflite-export gate`: holds a file to limits, for a CI."""

import argparse
from pathlib import Path
from typing import Any

from tflite_export.cli.options import add_command, add_samples
from tflite_export.cli.output import EXIT_NO, EXIT_OK, progress, show

_LIMITS = (
    "max_bytes",
    "max_arena",
    "max_cycles",
    "min_agreement",
    "min_sparsity",
)


def add_gate(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands, "gate", _gate, "hold a .tflite file to limits, for a CI"
    )
    command.set_defaults(refuse=command.error)
    command.add_argument("file", help="the .tflite file")
    for name, metavar, parse, text in (
        ("--max-bytes", "SIZE", _size, "size of the file, as 100k or 64Ki"),
        ("--max-arena", "SIZE", _size, "arena of a microcontroller, in bytes"),
        ("--max-cycles", "N", _size, "cycles of an Ethos-U, by Vela"),
        ("--min-sparsity", "X", _fraction, "zeros among weights, in [0, 1]"),
        (
            "--min-agreement",
            "X",
            _fraction,
            "samples with the same largest class as --reference, in [0, 1]",
        ),
    ):
        command.add_argument(name, metavar=metavar, type=parse, help=text)
    command.add_argument(
        "--reference", metavar="FILE", help="the .tflite file to agree with"
    )
    add_samples(command)
    command.add_argument(
        "--accelerator",
        default="ethos-u55-128",
        help="the Ethos-U of the cycles (default: %(default)s)",
    )
    command.add_argument(
        "--baseline",
        metavar="JSON",
        help="the numbers that --write-baseline wrote; none may get worse",
    )
    command.add_argument(
        "--tolerance",
        type=_fraction,
        default=0.01,
        metavar="X",
        help="fraction by which they may all the same (default: %(default)s)",
    )
    command.add_argument(
        "--write-baseline",
        metavar="JSON",
        help="a file to write bytes and zeros to, arena and cycles where they "
        "have a limit",
    )
    command.add_argument("--markdown", metavar="MD", help="a table to write")
    command.add_argument("--junit", metavar="XML", help="a report to write")


def _gate(options: argparse.Namespace) -> int:
    held = {name: getattr(options, name) for name in _LIMITS}
    is_asked = any(limit is not None for limit in held.values())
    if not is_asked and not options.baseline and not options.write_baseline:
        options.refuse(
            "give a limit, such as --max-bytes 100k, or --baseline, or "
            "--write-baseline"
        )
    if (held["min_agreement"] is None) != (options.reference is None):
        options.refuse("--min-agreement and --reference need each other")
    with progress("Measuring"):
        from tflite_export.cli.loading import load_samples
        from tflite_export.files import require_writable, write_atomically
        from tflite_export.measuring.gate import gate, read_baseline
        from tflite_export.measuring.gate_report import Limits

        outputs = (options.markdown, options.junit, options.write_baseline)
        for path in outputs:
            if path is not None:
                require_writable(path)
        report = gate(
            options.file,
            Limits(**held),
            baseline=options.baseline and read_baseline(options.baseline),
            tolerance=options.tolerance,
            reference=options.reference,
            samples=options.samples and load_samples(options.samples),
            accelerator=options.accelerator,
        )
    baseline = report.to_baseline(options.accelerator)
    texts = (report.to_markdown(), report.to_junit(), baseline)
    write_atomically(
        {
            Path(path): text.encode()
            for path, text in zip(outputs, texts, strict=True)
            if path is not None
        }
    )
    show(options, report)
    return EXIT_OK if report.is_ok else EXIT_NO


def _size(text: str) -> int:
    from tflite_export.measuring.gate_report import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _fraction(text: str) -> float:
    try:
        fraction = float(text)
    except ValueError:
        fraction = -1.0
    if 0 <= fraction <= 1:
        return fraction
    raise argparse.ArgumentTypeError(
        f"Expected a fraction in [0, 1]. Received: {text!r}."
    )
