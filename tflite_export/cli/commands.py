"""The command line: `tflite-export COMMAND ...`.

Each command has its own imports: a command on a file loads neither Keras nor
TensorFlow, and a missing package is one line of text.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tflite_export.cli.benchmarking import add_benchmark
from tflite_export.cli.checking import add_check, is_model
from tflite_export.cli.compressing import add_compress
from tflite_export.cli.exporting import add_export
from tflite_export.cli.gating import add_gate
from tflite_export.cli.inspecting import add_inspect
from tflite_export.cli.output import EXIT_ERROR, EXIT_NO, EXIT_OK
from tflite_export.cli.verifying import add_verify
from tflite_export.extras import FILE_MODULES, MODEL_MODULES, require_extra

__all__ = ["EXIT_ERROR", "EXIT_NO", "EXIT_OK", "main"]

_ERRORS = (ImportError, ValueError, RuntimeError, OSError, MemoryError)
_COMMANDS = (
    add_export,
    add_compress,
    add_inspect,
    add_verify,
    add_check,
    add_benchmark,
    add_gate,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; wrong arguments end with 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        _require_packages(options)
        _require_target(options, parser)
        code: int = options.run(options)
        return code
    except _ERRORS as error:
        sys.stderr.write(f"error: {str(error) or type(error).__name__}\n")
        return EXIT_ERROR


def _require_packages(options: argparse.Namespace) -> None:
    loads_model = options.command in ("compress", "export", "verify") or (
        options.command == "check" and is_model(options.file)
    )
    modules = MODEL_MODULES if loads_model else FILE_MODULES
    needed_for = f"`tflite-export {options.command}`"
    require_extra(*modules, "rich", extra="export", needed_for=needed_for)


def _require_target(
    options: argparse.Namespace, parser: argparse.ArgumentParser
) -> None:
    """Ends with 2 on a wrong target or storage, before a file is loaded."""
    named = getattr(options, "target", None)
    if not named:  # The targets take longer to load than a file.
        return
    from tflite_export.targets.target import find_target

    storage = getattr(options, "weight_storage", "auto")
    try:
        for name in [named] if isinstance(named, str) else named:
            target = find_target(name)
            target.require_storage(storage)
            target.require_io_dtype(getattr(options, "io_dtype", None))
            if getattr(options, "project", None) is not None:
                target.require_project(options.project, Path(options.file))
    except ValueError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tflite-export",
        description="Writes, shows and proves small .tflite files.",
        epilog="Exit codes: 0 well, 1 the answer is no, 2 wrong arguments, "
        "3 error.",
    )
    commands = parser.add_subparsers(
        required=True, dest="command", metavar="command"
    )
    for add_command in _COMMANDS:
        add_command(commands)
    return parser
