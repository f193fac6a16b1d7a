"""The command line: `tflite-export COMMAND ...`.

Each command has its own imports: a command on a file loads neither Keras nor
TensorFlow, and a missing package is one line of text.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tflite_export.extras import FILE_MODULES, MODEL_MODULES, require_extra
from tflite_export.files import require_writable
from tflite_export.format.kinds import (
    KERAS,
    TFLITE,
    ZIP,
    kind_at,
    read_tflite,
    wrong_kind,
)
from tflite_export.tables import Parts

EXIT_OK = 0
# The file is readable, and the answer of the command is no.
EXIT_NO = 1
# argparse ends with 2 on wrong arguments.
EXIT_ERROR = 3
_ERRORS = (ImportError, ValueError, RuntimeError, OSError, MemoryError)
_PIPE_WIDTH = 140
_BUDGETS = {
    "relative_bops": "bit operations relative to the float model, in (0, 1]",
    "sparsity": "fraction of zeros, in [0, 1)",
    "bits_per_weight": "mean of density times bits",
    "size_bytes": "estimated bytes of all kernels",
}
_RANDOM_NOTE = (
    "compared on random inputs over the input ranges, which may saturate the "
    "outputs. Name real ones with --samples."
)


class _Report(Protocol):
    def parts(self) -> Parts: ...

    def to_dict(self) -> dict[str, Any]: ...


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
    is_model = options.command in ("compress", "export", "verify") or (
        options.command == "check" and _is_model(options.file)
    )
    modules = MODEL_MODULES if is_model else FILE_MODULES
    needed_for = f"`tflite-export {options.command}`"
    require_extra(*modules, "rich", extra="export", needed_for=needed_for)


def _require_target(
    options: argparse.Namespace, parser: argparse.ArgumentParser
) -> None:
    """Ends with 2 on a wrong target or storage, before a file is loaded."""
    from tflite_export.targets.target import find_target

    named = getattr(options, "target", None) or []
    storage = getattr(options, "weight_storage", "auto")
    try:
        for name in [named] if isinstance(named, str) else named:
            target = find_target(name)
            target.require_storage(storage)
            if getattr(options, "project", None) is not None:
                target.require_project(options.project, Path(options.file))
    except ValueError as error:
        parser.error(str(error))


def _is_model(path: str) -> bool:
    """Whether a file is a model, not a .tflite file, by its contents."""
    kind = kind_at(path)
    if kind not in (TFLITE, KERAS, ZIP):
        raise wrong_kind(path, kind, "a .tflite file or a .keras model")
    return kind != TFLITE


def _export(options: argparse.Namespace) -> int:
    return _write(options, *_model_and_samples(options))


def _model_and_samples(options: argparse.Namespace) -> tuple[Any, Any]:
    with _progress("Loading the model"):
        from tflite_export.cli.loading import load_keras_model, load_samples
        from tflite_export.exporting import checked_path

        # Wrong arguments before the work.
        checked_path(options.file)
        samples = options.samples and load_samples(options.samples)
        return load_keras_model(options.model), samples


def _write(options: argparse.Namespace, model: Any, samples: Any) -> int:
    from tflite_export.exporting import export

    with _progress("Converting the model and running the file"):
        result = export(
            model,
            options.file,
            target=options.target,
            weight_storage=options.weight_storage,
            project=options.project,
            representative_dataset=samples,
        )
    _show(options, result)
    return EXIT_OK


def _compress(options: argparse.Namespace) -> int:
    model, samples = _model_and_samples(options)
    with _progress("Compressing the model"):
        import codeq_keras

        budget = {name: getattr(options, name) for name in _BUDGETS}
        config = options.bit_width and codeq_keras.CoDeQConfig(
            options.bit_width, level_grid="uniform", axis=-1
        )
        qmodel = codeq_keras.compress_post_training(
            model, samples, config, activation_bit_width=8, verbose=0, **budget
        )
    return _write(options, qmodel, samples)


def _inspect(options: argparse.Namespace) -> int:
    from tflite_export.inspection import inspect

    _show(options, inspect(options.file))
    return EXIT_OK


def _verify(options: argparse.Namespace) -> int:
    with _progress("Loading the model"):
        from tflite_export.cli.loading import load_keras_model, load_samples
        from tflite_export.verification.verify import verify

        # Another kind of file is refused before the work.
        read_tflite(options.file)
        samples = options.samples and load_samples(options.samples)
        model = load_keras_model(options.model)
    with _progress("Running the file and the model"):
        report = verify(options.file, model, samples)
    note = _RANDOM_NOTE if options.samples is None else None
    _show(options, report, note=note)
    return EXIT_OK if report.codes_equal else EXIT_NO


def _check(options: argparse.Namespace) -> int:
    with _progress("Checking"):
        from tflite_export.targets.checking import check

        if _is_model(options.file):
            from tflite_export.cli.loading import load_keras_model

            model = load_keras_model(options.file)
            report = check(model, target=options.target)
        else:
            report = check(options.file, target=options.target)
    _show(options, report)
    return EXIT_OK if report.is_ok else EXIT_NO


def _benchmark(options: argparse.Namespace) -> int:
    with _progress("Measuring"):
        from tflite_export.cli.loading import load_samples
        from tflite_export.measuring.benchmark import DEFAULT_TARGETS, benchmark

        if options.plot is not None:
            require_writable(options.plot)
        report = benchmark(
            *options.files,
            targets=options.target or DEFAULT_TARGETS,
            samples=options.samples and load_samples(options.samples),
            num_threads=options.threads,
            benchmark_model=options.benchmark_model,
        )
        if options.plot is not None:
            report.plot(options.plot)
    _show(options, report)
    return EXIT_OK


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
    command = _add(commands, "export", _export, "write a .tflite file")
    command.add_argument("model", help="quantized model, a .keras file")
    command.add_argument("file", help="the .tflite file to write")
    _add_samples(command)
    _add_target(command)
    _add_weight_storage(command)
    _add_project(command)
    _add_compress(commands)
    command = _add(
        commands, "inspect", _inspect, "show what a .tflite file holds"
    )
    command.add_argument("file", help="a .tflite file of any origin")
    command = _add(
        commands, "verify", _verify, "compare a .tflite file with its model"
    )
    command.add_argument("file", help="the .tflite file")
    command.add_argument("model", help="the quantized model, a .keras file")
    _add_samples(command)
    command = _add(commands, "check", _check, "say what would run on a target")
    command.add_argument("file", help="a .keras model or a .tflite file")
    _add_target(command)
    _add_benchmark(commands)
    return parser


def _add_compress(commands: Any) -> None:
    command = _add(
        commands,
        "compress",
        _compress,
        "compress a trained model without training, and write a .tflite file",
    )
    command.add_argument("model", help="float model, a .keras file")
    command.add_argument("file", help="the .tflite file to write")
    _add_samples(command, required=True)
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
    _add_target(command)
    _add_weight_storage(command)
    _add_project(command)


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
        metavar="TARGET",
        help="a device to measure on, repeatable (default: all but "
        "litert-sparse, which is measured as litert)",
    )
    _add_samples(command)
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
    command: argparse.ArgumentParser, *, required: bool = False
) -> None:
    command.add_argument(
        "--samples",
        required=required,
        help="inputs as in training: a .npy file of shape (n, ...), or a "
        ".npz file of arrays by input name",
    )


def _add_target(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--target",
        default="litert",
        metavar="TARGET",
        help="the device, such as tflm or ethos-u; an unknown name lists all "
        "(default: %(default)s)",
    )


def _add_weight_storage(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--weight-storage",
        default="auto",
        help="auto, int8, int4, sparse, lut or huffman (default: %(default)s)",
    )


def _add_project(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--project",
        metavar="KIND",
        help="for tflm, also a folder that builds: cmake, zephyr or esp-idf",
    )


@contextmanager
def _progress(text: str) -> Iterator[None]:
    from rich.console import Console

    # On stderr, so that the table or the JSON can be piped.
    with Console(stderr=True).status(f"{text} ..."):
        yield


def _show(
    options: argparse.Namespace, report: _Report, *, note: str | None = None
) -> None:
    """Prints a report and a note, as JSON or in color."""
    notes = [] if note is None else [note]
    if options.json:
        plain = report.to_dict() | ({"notes": notes} if notes else {})
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    from rich.console import Console

    from tflite_export.cli.render import as_rich

    # A pipe has no width; a table in it should not be folded to 80 columns.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    parts = [*report.parts(), *(f"note: {text}" for text in notes)]
    Console(width=width).print(as_rich(parts), highlight=False)
