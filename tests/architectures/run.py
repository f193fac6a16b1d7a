"""Fills the table of architectures, one row in a process of its own at a time.

    python tests/architectures/run.py [--rows lstm unet | --rows all]
        [--columns channels]

Without `--rows` it measures the rows that are missing; with `--columns`, a
column alone where it is missing, see `row.py`.
Each finished row is written at once to `docs/architectures.json`, and the table
to `docs/architectures.md`, so that a run that was cut off goes on where it
stopped. A row takes from half a minute to half an hour on two cores.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PATHS = [HERE.parent, ROOT / "benchmarks"]
sys.path[:0] = [str(path) for path in PATHS]
TABLE = ROOT / "docs" / "architectures.json"
TIME_LIMIT_S = 3600
PACKAGES = ("keras", "tensorflow", "jax", "ai-edge-litert", "ethos-u-vela")


def main() -> None:
    # Only the children need TensorFlow, and its 700 MB.
    os.environ["KERAS_BACKEND"] = "numpy"
    from architectures.models import COLUMNS, ROWS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, "all"])
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=[])
    parser.add_argument("--table", type=Path, default=TABLE)
    arguments = parser.parse_args()
    table = {}
    if arguments.table.exists():
        table = json.loads(arguments.table.read_text())
    columns = arguments.columns
    wanted = arguments.rows or [
        name
        for name in ROWS
        if name not in table or not table[name].keys() >= set(columns)
    ]
    for name in ROWS if "all" in wanted else wanted:
        if columns and name in table:
            table[name] |= run_columns(name, columns)
        else:
            table[name] = run_row(name)
        ordered = {name: table[name] for name in ROWS if name in table}
        _write(arguments.table, json.dumps(ordered, indent=1) + "\n")
        _write(arguments.table.with_suffix(".md"), render(ordered))
        red = [c for c, cell in table[name].items() if is_red(cell)]
        text = f"not green in {red}" if red else "green"
        sys.stdout.write(f"{name}: {text}\n")
        sys.stdout.flush()


def is_red(cell: object) -> bool:
    """Whether a value of a row is a cell that is not green."""
    return isinstance(cell, dict) and cell.get("ok") is False


def facts_of_now() -> dict:
    """Returns the date and the versions of a measurement."""
    return {
        "date": datetime.date.today().isoformat(),
        "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
    }


def run_columns(name: str, columns: list[str]) -> dict:
    """Measures some cells of a row, which get a date of their own."""
    cells = run_child(name, "tensorflow", columns)
    return {
        column: cells.get(column, next(iter(cells.values()))) | facts_of_now()
        for column in columns
    }


def run_row(name: str) -> dict:
    """Measures a row in children, whose memory is free afterwards."""
    from architectures.models import JAX_COLUMNS

    facts = facts_of_now()
    cells = run_child(name, "tensorflow")
    on_jax = run_child(name, "jax")
    red = {
        column: on_jax.get(column, {}).get("reason", "not measured")
        for column in JAX_COLUMNS
        if not on_jax.get(column, {}).get("ok")
    }
    total = len(JAX_COLUMNS)
    jax = {
        "ok": not red,
        "value": f"{total - len(red)}/{total}",
        "reason": "; ".join(
            f"{column}: {text}" for column, text in red.items()
        ),
    }
    return facts | cells | {"jax": jax}


def run_child(name: str, backend: str, columns: Sequence[str] = ()) -> dict:
    """Returns the cells that a backend measures: all, or some columns."""
    paths = os.pathsep.join(
        [*map(str, PATHS), os.environ.get("PYTHONPATH", "")]
    )
    environment = {
        **os.environ,
        "PYTHONPATH": paths.rstrip(os.pathsep),
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "row.json")
        command = [sys.executable, str(HERE / "row.py"), name]
        try:
            child = subprocess.run(
                [*command, str(result), *columns],
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIME_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"identity": _failure(f"over {TIME_LIMIT_S} s")}
        if not result.exists():
            log = child.stderr.strip().splitlines() or ["no message"]
            reason = f"process ended with {child.returncode}: {log[-1]}"
            return {"identity": _failure(reason)}
        cells: dict = json.loads(result.read_text())
        return cells


def _failure(reason: str) -> dict:
    return {"ok": False, "value": "error", "reason": reason}


def render(table: dict[str, dict]) -> str:
    """Returns the table as Markdown, with the reasons below."""
    from architectures.models import COLUMNS

    header = ["model", *(name.replace("_", " ") for name in COLUMNS)]
    lines = [
        "# Architectures",
        "",
        "Written by `make architectures`; do not edit. Weights are random,",
        "with about 60 % zeros, negative gammas and re-estimated BatchNorm",
        "statistics; 16 random samples calibrate and compare. So this table",
        "shows that files are exact and run, not how accurate a trained",
        "network is.",
        "",
        *(
            f"- {name.replace('_', ' ')}: {text}"
            for name, text in COLUMNS.items()
        ),
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
    ]
    notes = []
    for name, row in table.items():
        cells = [name]
        for column in COLUMNS:
            cell = row.get(column)
            if cell is None:
                cells.append("not measured")
                continue
            cells.append(("✓ " if cell["ok"] else "✗ ") + cell["value"])
            if not cell["ok"] and cell["reason"]:
                reason = " ".join(cell["reason"].split())
                notes.append(f"- {name}, {column}: {reason}")
        lines.append("| " + " | ".join(cells) + " |")
    if notes:
        lines += ["", "## What is not green, and why", "", *notes]
    lines += ["", *sorted(set(_measurements(table)))]
    return "\n".join(lines) + "\n"


def _measurements(table: dict[str, dict]) -> Iterator[str]:
    """A line for each date and versions, of rows and of single cells."""

    def line(facts: dict, column: str = "") -> str:
        versions = ", ".join(f"{p} {v}" for p, v in facts["versions"].items())
        return f"Measured {facts['date']} with {versions}{column}."

    for row in table.values():
        yield line(row)
        for column, cell in row.items():
            if isinstance(cell, dict) and "date" in cell:
                yield line(cell, f": {column.replace('_', ' ')}")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
