"""Options that several commands share."""

import argparse
from collections.abc import Callable
from typing import Any

from tflite_export.files import require_writable


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    """Adds a command with what all commands have."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    command.add_argument(
        "--json", action="store_true", help="write JSON, not a table"
    )
    command.set_defaults(run=run)
    return command


def add_samples(
    command: argparse.ArgumentParser, *, required: bool = False
) -> None:
    """Adds `--samples`."""
    command.add_argument(
        "--samples",
        required=required,
        help="inputs as in training: a .npy file of shape (n, ...), or a "
        ".npz file of arrays by input name",
    )


def add_labels(command: argparse.ArgumentParser) -> None:
    """Adds `--labels`."""
    command.add_argument(
        "--labels",
        help="the classes of the samples, for the accuracy: a .npy file of "
        "integers of shape (n,)",
    )


def add_target(command: argparse.ArgumentParser) -> None:
    """Adds `--target`."""
    command.add_argument(
        "--target",
        default="litert",
        metavar="TARGET",
        help="the device, such as tflm or ethos-u; an unknown name lists all "
        "(default: %(default)s)",
    )


def add_weight_storage(command: argparse.ArgumentParser) -> None:
    """Adds `--weight-storage`."""
    command.add_argument(
        "--weight-storage",
        default="auto",
        help="auto, int8, int4, sparse, lut or huffman (default: %(default)s)",
    )


def add_project(command: argparse.ArgumentParser) -> None:
    """Adds `--project`."""
    command.add_argument(
        "--project",
        metavar="KIND",
        help="for tflm, also a folder that builds: cmake, zephyr or esp-idf",
    )


def add_file_options(command: argparse.ArgumentParser) -> None:
    """Adds what an export can be told of the file that it writes."""
    add_target(command)
    add_weight_storage(command)
    add_io_dtype(command)
    add_project(command)
    add_html(command)


def add_html(command: argparse.ArgumentParser) -> None:
    """Adds `--html`."""
    command.add_argument(
        "--html",
        type=_html_path,
        metavar="PATH",
        help="an HTML file to write as well, with all of the report",
    )


def _html_path(path: str) -> str:
    if not path.endswith(".html"):
        raise argparse.ArgumentTypeError(
            f"must end in '.html'. Received: {path!r}."
        )
    try:
        require_writable(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path


def add_io_dtype(command: argparse.ArgumentParser) -> None:
    """Adds `--io-dtype`."""
    command.add_argument(
        "--io-dtype",
        metavar="TYPE",
        help="inputs and outputs, for litert: int8, uint8 or float32 "
        "(default: int8)",
    )
