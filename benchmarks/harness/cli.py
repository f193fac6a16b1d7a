"""The command line that all benchmarks share."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
SMOKE_RESULTS = Path("artifacts/smoke")


def parser(
    name: str, doc: str | None, *, seeds: Sequence[int] | None = None
) -> argparse.ArgumentParser:
    """Returns a parser of the options that all have; seeds if they vary."""
    found = argparse.ArgumentParser(
        prog=f"python benchmarks {name}",
        description=(doc or "").partition("\n")[0],
    )
    found.add_argument(
        "--output", type=Path, default=RESULTS, help="folder of the results"
    )
    found.add_argument(
        "--smoke",
        action="store_true",
        help=f"seconds, to see that it runs; writes to {SMOKE_RESULTS}",
    )
    if seeds is not None:
        found.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    return found


def parse(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    smoke: dict[str, Any],
) -> argparse.Namespace:
    """Reads the options; `smoke` has the defaults under `--smoke`."""
    argv = sys.argv[1:] if argv is None else argv
    if "--smoke" in argv:
        parser.set_defaults(output=SMOKE_RESULTS, **smoke)
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    return args
