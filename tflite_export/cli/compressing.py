"""`tflite-export compress`: compresses without training, and exports."""

import argparse
from typing import Any

from tflite_export.cli.exporting import model_and_samples, write
from tflite_export.cli.options import (
    add_command,
    add_file_options,
    add_samples,
)
from tflite_export.cli.output import progress

_BUDGETS = {
    "relative_bops": "bit operations relative to the float model, in (0, 1]",
    "sparsity": "fraction of zeros, in [0, 1)",
    "bits_per_weight": "mean of density times bits",
    "size_bytes": "estimated bytes of all kernels",
}


def add_compress(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "compress",
        _compress,
        "compress a trained model without training, and write a .tflite file",
    )
    command.add_argument("model", help="float model, a .keras file")
    command.add_argument("file", help="the .tflite file to write")
    add_samples(command, required=True)
    budgets = command.add_mutually_exclusive_group()
    for name, text in _BUDGETS.items():
        budgets.add_argument(
            f"--{name.replace('_', '-')}", type=float, metavar="X", help=text
        )
    command.add_argument(
        "--bit-width",
        type=int,
        help="bits of a weight, 2 to 8 (default: what suits the budget)",
    )
    add_file_options(command)


def _compress(options: argparse.Namespace) -> int:
    model, samples = model_and_samples(options)
    with progress("Compressing the model"):
        import codeq_keras

        budget = {name: getattr(options, name) for name in _BUDGETS}
        config = options.bit_width and codeq_keras.CoDeQConfig(
            options.bit_width, level_grid="uniform", axis=-1
        )
        qmodel = codeq_keras.compress_post_training(
            model, samples, config, activation_bit_width=8, verbose=0, **budget
        )
    return write(options, qmodel, samples)
