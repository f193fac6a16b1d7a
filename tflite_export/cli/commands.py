"""The command line: `python -m tflite_export COMMAND ...`.

The commands are export, inspect, verify, check and benchmark.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from tflite_export.checking import check
from tflite_export.cli import render
from tflite_export.cli.loading import load_keras_model, load_samples
from tflite_export.exporting import export
from tflite_export.inspection import inspect
from tflite_export.measuring.benchmark import DEFAULT_TARGETS, benchmark
from tflite_export.targets.target import target_names, weight_storages
from tflite_export.verification.verify import verify

EXIT_OK = 0
# The file or the model is readable, and the answer to the question is no.
EXIT_NO = 1
# argparse ends with 2 on wrong arguments.
EXIT_ERROR = 3
_PIPE_WIDTH = 140


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The arguments; None for those of the process.

    Returns:
        0 if all is well; 1 if `verify` found a difference or `check`
        something that blocks the target; 3 after an error.
        Wrong arguments end the process with 2.
    """
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        text = str(error) or type(error).__name__
        Console(stderr=True).print(
            f"error: {text}", style="red", markup=False, highlight=False
        )
        return EXIT_ERROR


def _export(options: argparse.Namespace) -> int:
    with _progress("Loading the model"):
        model = load_keras_model(options.model)
        samples = options.samples and load_samples(options.samples)
    with _progress("Converting the model and running the file"):
        result = export(
            model,
            options.file,
            target=options.target,
            weight_storage=options.weight_storage,
            representative_dataset=samples,
        )
    _show(options, result.to_dict(), lambda: render.export_summary(result))
    return EXIT_OK


def _inspect(options: argparse.Namespace) -> int:
    inspection = inspect(options.file)
    _show(
        options,
        inspection.to_dict(),
        lambda: render.inspection_table(inspection),
    )
    return EXIT_OK


def _verify(options: argparse.Namespace) -> int:
    with _progress("Loading the model"):
        model = load_keras_model(options.model)
        samples = load_samples(options.samples)
    with _progress("Running the file and the model"):
        report = verify(options.file, model, samples)
    _show(options, _plain(report), lambda: render.verification_table(report))
    return EXIT_OK if report.codes_equal else EXIT_NO


def _check(options: argparse.Namespace) -> int:
    with _progress("Checking"):
        if Path(options.file).suffix == ".tflite":
            report = check(options.file, target=options.target)
        else:
            model = load_keras_model(options.file)
            report = check(model, target=options.target)
    _show(
        options,
        _plain(report) | {"is_ok": report.is_ok},
        lambda: render.check_table(report),
    )
    return EXIT_OK if report.is_ok else EXIT_NO


def _benchmark(options: argparse.Namespace) -> int:
    samples = None if options.samples is None else load_samples(options.samples)
    with _progress("Measuring"):
        report = benchmark(
            *options.files,
            targets=options.target or DEFAULT_TARGETS,
            samples=samples,
            num_threads=options.threads,
            benchmark_model=options.benchmark_model,
        )
        if options.plot is not None:
            report.plot(options.plot)
    _show(options, report.to_dict(), lambda: render.benchmark_tables(report))
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tflite-export",
        description="Writes, shows and proves small .tflite files.",
        epilog="Exit codes: 0 well, 1 the answer is no, 2 wrong arguments, "
        "3 error.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    command = _add(commands, "export", _export, "write a .tflite file")
    command.add_argument("model", help="quantized model, a .keras file")
    command.add_argument("file", help="the .tflite file to write")
    _add_samples(command, is_required=False)
    _add_target(command)
    command.add_argument(
        "--weight-storage",
        default="auto",
        choices=weight_storages(),
        help="how weights are stored (default: %(default)s)",
    )
    command = _add(
        commands, "inspect", _inspect, "show what a .tflite file holds"
    )
    command.add_argument("file", help="a .tflite file of any origin")
    command = _add(
        commands, "verify", _verify, "compare a .tflite file with its model"
    )
    command.add_argument("file", help="the .tflite file")
    command.add_argument("model", help="the quantized model, a .keras file")
    _add_samples(command, is_required=True)
    command = _add(commands, "check", _check, "say what would run on a target")
    command.add_argument("file", help="a .keras model or a .tflite file")
    _add_target(command)
    _add_benchmark(commands)
    return parser


def _add_benchmark(commands: Any) -> None:
    command = _add(
        commands, "benchmark", _benchmark, "measure .tflite files side by side"
    )
    command.add_argument(
        "files", nargs="+", help="the files; ratios are to the first one"
    )
    command.add_argument(
        "--target",
        action="append",
        choices=target_names(),
        metavar="TARGET",
        help="a device to measure on, repeatable (default: "
        f"{', '.join(DEFAULT_TARGETS)})",
    )
    _add_samples(command, is_required=False)
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


def _add(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    command.add_argument(
        "--json", action="store_true", help="write JSON, not a table"
    )
    command.set_defaults(run=run)
    return command


def _add_samples(
    command: argparse.ArgumentParser, *, is_required: bool = True
) -> None:
    command.add_argument(
        "--samples",
        required=is_required,
        help="inputs as in training: a .npy file of shape (n, ...), or a "
        ".npz file of arrays by input name",
    )


def _add_target(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--target",
        default="litert",
        choices=target_names(),
        metavar="TARGET",
        help="the device: litert, litert-sparse, tflm, edgetpu, ethos-u or a "
        "size such as ethos-u55-128 (default: %(default)s)",
    )


@contextmanager
def _progress(text: str) -> Iterator[None]:
    # On stderr, so that the table or the JSON can be piped.
    with Console(stderr=True).status(f"{text} ..."):
        yield


def _show(
    options: argparse.Namespace,
    plain: dict[str, Any],
    table: Callable[[], Any],
) -> None:
    if options.json:
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    # A pipe has no width; a table in it should not be folded to 80 columns.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width).print(table(), highlight=False)


def _plain(record: Any) -> dict[str, Any]:
    """A frozen record as values that JSON knows."""
    plain: dict[str, Any] = json.loads(
        json.dumps(dataclasses.asdict(record), default=_plain_value)
    )
    return plain


def _plain_value(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value.item()
