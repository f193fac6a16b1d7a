"""`tflite-export verify`: compares a file with its model."""

import argparse
from typing import Any

from tflite_export.cli.options import add_command, add_labels, add_samples
from tflite_export.cli.output import EXIT_NO, EXIT_OK, progress, show
from tflite_export.format.kinds import read_tflite

_RANDOM_NOTE = (
    "compared on random inputs over the input ranges, which may saturate the "
    "outputs. Name real ones with --samples."
)


def add_verify(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands, "verify", _verify, "compare a .tflite file with its model"
    )
    command.add_argument("file", help="the .tflite file")
    command.add_argument("model", help="the quantized model, a .keras file")
    add_samples(command)
    add_labels(command)


def _verify(options: argparse.Namespace) -> int:
    with progress("Loading the model"):
        from tflite_export.cli.loading import (
            load_keras_model,
            load_labels,
            load_samples,
        )
        from tflite_export.verification.verify import verify

        # Another kind of file is refused before the work.
        read_tflite(options.file)
        samples = options.samples and load_samples(options.samples)
        labels = options.labels and load_labels(options.labels)
        model = load_keras_model(options.model)
    with progress("Running the file and the model"):
        report = verify(options.file, model, samples, labels)
    notes = [_RANDOM_NOTE] if options.samples is None else []
    show(options, report, notes=notes)
    return EXIT_OK if report.codes_equal else EXIT_NO
