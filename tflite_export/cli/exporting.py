"""`tflite-export export`: writes a `.tflite` file."""

import argparse
from typing import Any

from tflite_export.cli.options import (
    add_command,
    add_file_options,
    add_samples,
)
from tflite_export.cli.output import EXIT_OK, progress, show


def add_export(commands: Any) -> None:
    """Adds the command."""
    command = add_command(commands, "export", _export, "write a .tflite file")
    command.add_argument("model", help="quantized model, a .keras file")
    command.add_argument("file", help="the .tflite file to write")
    add_samples(command)
    add_file_options(command)


def _export(options: argparse.Namespace) -> int:
    return write(options, *model_and_samples(options))


def model_and_samples(options: argparse.Namespace) -> tuple[Any, Any]:
    """Loads both, after wrong paths were refused."""
    with progress("Loading the model"):
        from tflite_export.cli.loading import load_keras_model, load_samples
        from tflite_export.exporting import checked_path

        # Wrong arguments before the work.
        checked_path(options.file)
        samples = options.samples and load_samples(options.samples)
        return load_keras_model(options.model), samples


def write(options: argparse.Namespace, model: Any, samples: Any) -> int:
    """Exports a model and shows the result."""
    from tflite_export.exporting import export

    result = export(
        model,
        options.file,
        target=options.target,
        weight_storage=options.weight_storage,
        io_dtype=options.io_dtype,
        project=options.project,
        representative_dataset=samples,
    )
    if options.html is not None:
        result.to_html(options.html)
    show(options, result)
    return EXIT_OK
