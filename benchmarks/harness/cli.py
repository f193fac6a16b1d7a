"""The command line that all benchmarks share."""

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
SMOKE_RESULTS = Path("artifacts/smoke")


def parse(
    name: str,
    doc: str | None,
    argv: Sequence[str],
    *,
    smoke: Mapping[str, Any],
    choices: Mapping[str, Collection[str]] | None = None,
    **defaults: Any,
) -> argparse.Namespace:
    """Reads `--output`, `--smoke` and an option for each default.

    A list takes several values, False is a switch, and a type (or a list of
    one) has no default. `smoke` has the defaults under `--smoke`.
    """
    parser = argparse.ArgumentParser(
        prog=f"python benchmarks {name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = {"output": RESULTS, "smoke": False, **defaults}
    for option, default in options.items():
        flag = f"--{option.replace('_', '-')}"
        if default is False:
            parser.add_argument(flag, action="store_true")
            continue
        first = default[0] if isinstance(default, list) else default
        has_default = not isinstance(first, type)
        parser.add_argument(
            flag,
            type=type(first) if has_default else first,
            nargs="+" if isinstance(default, list) else None,
            choices=(choices or {}).get(option),
            default=default if has_default else None,
        )
    if "--smoke" in argv:
        parser.set_defaults(output=SMOKE_RESULTS, **smoke)
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    return args
