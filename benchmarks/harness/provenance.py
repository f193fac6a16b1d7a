"""What numbers depend on: date, versions, hardware, seeds."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import keras


def line(*packages: str, seeds: Sequence[int] = (0,)) -> str:
    """Returns date, versions, hardware and seeds in one line."""
    parts = [
        today(),
        *(f"{name} {number}" for name, number in versions(*packages).items()),
        f"Python {platform.python_version()}",
        hardware(),
        f"seeds {', '.join(map(str, seeds))}",
    ]
    return "; ".join(parts)


def today() -> str:
    """Returns the date."""
    return datetime.date.today().isoformat()


def versions(*packages: str) -> dict[str, str]:
    """Returns the versions of packages, and of those that all depend on."""
    names = ["codeq-keras", "keras", keras.backend.backend(), "numpy"]
    found = {}
    for name in dict.fromkeys([*names, *packages]):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def hardware() -> str:
    """Returns the processor's name, or the architecture, and the cores."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.split(":")[1] for line in lines if "model name" in line)
    name = next(names, platform.machine()).strip()
    return f"{name}, {os.cpu_count()} cores"
