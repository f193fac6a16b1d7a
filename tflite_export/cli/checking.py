"""`tflite-export check`: says what would run on a target."""

import argparse
from typing import Any

from tflite_export.cli.options import add_command, add_target
from tflite_export.cli.output import EXIT_NO, EXIT_OK, progress, show
from tflite_export.format.kinds import KERAS, TFLITE, ZIP, kind_at, wrong_kind


def add_check(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands, "check", _check, "say what would run on a target"
    )
    command.add_argument("file", help="a .keras model or a .tflite file")
    add_target(command)


def _check(options: argparse.Namespace) -> int:
    with progress("Checking"):
        from tflite_export.targets.checking import check

        if is_model(options.file):
            from tflite_export.cli.loading import load_keras_model

            model = load_keras_model(options.file)
            report = check(model, target=options.target)
        else:
            report = check(options.file, target=options.target)
    show(options, report)
    return EXIT_OK if report.is_ok else EXIT_NO


def is_model(path: str) -> bool:
    """Whether a file is a model, not a .tflite file, by its contents."""
    kind = kind_at(path)
    if kind not in (TFLITE, KERAS, ZIP):
        raise wrong_kind(path, kind, "a .tflite file or a .keras model")
    return kind != TFLITE
