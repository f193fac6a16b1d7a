"""`tflite-export inspect`: shows what a file holds."""

import argparse
from typing import Any

from tflite_export.cli.options import add_command
from tflite_export.cli.output import EXIT_OK, show


def add_inspect(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands, "inspect", _inspect, "show what a .tflite file holds"
    )
    command.add_argument("file", help="a .tflite file of any origin")


def _inspect(options: argparse.Namespace) -> int:
    from tflite_export.inspection import inspect

    show(options, inspect(options.file))
    return EXIT_OK
