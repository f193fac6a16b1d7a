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
    command.add_argument(
        "--model-explorer",
        metavar="JSON",
        help="node data to write for Model Explorer: out.json becomes "
        "out.zeros.json, out.bits.json, out.entropy.json and out.bytes.json",
    )


def _inspect(options: argparse.Namespace) -> int:
    from tflite_export.inspection import inspect, write_node_data

    notes = []
    if options.model_explorer is not None:
        written = write_node_data(options.model_explorer, options.file)
        notes = [f"written for Model Explorer: {path}" for path in written]
    show(options, inspect(options.file), notes=notes)
    return EXIT_OK
