"""Runs files on the emulated CPU and counts the instructions of an inference.

QEMU 7.2 has two traps. It shows the guest the host's `/proc/cpuinfo`, which
crashes LiteRT. So a folder for each CPU holds one with ARM fields; its part
number must be that of the CPU, or XNNPACK takes kernels that the CPU lacks. And
`-cpu max` computes wrong int8 results, through SME: only real CPUs are offered.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter, sandbox

# Raised with each change of the folder's contents.
LAYOUT_VERSION = 1
MANIFEST = "manifest.json"
COUNTER = "instruction_counter.so"
# The emulated Python must have the versions of this one.
WHEELS = ("ai-edge-litert", "numpy")
# Counts repeat to 0.02 %; the median of a few is stable to the last digits.
NUM_REPEATS = 5
_COUNT_SCRIPT = Path(__file__).with_name("counting_child.py")


class Cpu(NamedTuple):
    """Fields of `/proc/cpuinfo` of a CPU."""

    part: str
    features: str


_BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
CPU_INFO = {
    # The slow cores of most phones; no dot product.
    "cortex-a53": Cpu("0xd03", _BASE),
    # A fast core, with the int8 dot product.
    "cortex-a76": Cpu(
        "0xd0b",
        f"{_BASE} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp ssbs",
    ),
}
CPUS = tuple(CPU_INFO)


def root() -> Path:
    """Returns the folder that holds the emulator and the AArch64 system.

    `TFLITE_EXPORT_ARM_ROOT`, or a folder in the user's cache.
    """
    chosen = os.environ.get("TFLITE_EXPORT_ARM_ROOT")
    if chosen:
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "tflite-export" / "arm64"


def manifest() -> dict[str, str | int]:
    """Returns the manifest of a folder for this installation."""
    # Slow to import, and only this needs it.
    import importlib.metadata

    versions = {name: importlib.metadata.version(name) for name in WHEELS}
    return {"layout": LAYOUT_VERSION, **versions}


def missing() -> str | None:
    """Returns why files cannot be run on ARM here, and the remedy; or None."""
    path = root() / MANIFEST
    remedy = (
        "Run `make arm`, or `python -m tflite_export.arm` from anywhere (about "
        "100 MB to download)."
    )
    if not path.exists():
        return f"AArch64 emulation is not set up in {str(root())!r}. {remedy}"
    held, needed = json.loads(path.read_text()), manifest()
    if held != needed:
        return (
            f"The AArch64 emulation in {str(root())!r} was set up for {held}, "
            f"and {needed} is installed. {remedy}"
        )
    return None


def run(
    data: bytes,
    inputs: Mapping[int, np.ndarray],
    *,
    cpu: str = "cortex-a53",
) -> dict[int, np.ndarray]:
    """Returns the file's outputs on an ARM CPU, as `interpreter.run` does."""
    _require_ready(cpu)
    return interpreter.run(data, inputs, emulator=command(root(), cpu))


def count_instructions(
    data: bytes,
    inputs: Mapping[int, np.ndarray],
    *,
    cpu: str = "cortex-a53",
) -> int:
    """Returns the instructions of one inference on one thread, of one sample.

    Instructions are not cycles: sparse kernels load more, dense ones multiply
    more. Counts repeat to 0.02 %; times here do not.
    """
    _require_ready(cpu)
    by_run = interpreter.by_run(Flatbuffer(data), inputs)
    _, log = sandbox.run_script(
        _COUNT_SCRIPT,
        data,
        {str(index): runs for index, runs in by_run.items()},
        {"num_repeats": NUM_REPEATS},
        emulator=command(root(), cpu, plugin=COUNTER),
    )
    return instructions_between_marks(log, NUM_REPEATS)


def instructions_between_marks(log: str, num_repeats: int) -> int:
    """Returns the median of the inferences less that of the empty pairs.

    The log holds pairs of marks with nothing between them, then as many pairs
    around an inference.

    Example:

    >>> marks = [0, 7, 10, 18, 20, 27] + [100, 607, 700, 1207, 1300, 1900]
    >>> log = "".join(f"instructions {mark}\\n" for mark in marks)
    >>> instructions_between_marks(log, 3)
    500
    """
    # Slow to import: `find_target` comes by here.
    import statistics

    marks = [int(m) for m in re.findall(r"^instructions (\d+)$", log, re.M)]
    if len(marks) != 4 * num_repeats:
        raise RuntimeError(
            f"Expected {4 * num_repeats} marks of the instruction counter. "
            f"Received: {len(marks)}. Set the emulation up again: remove "
            f"{str(root())!r} and run `make arm`."
        )
    pairs = np.array(marks).reshape(2, num_repeats, 2)
    empty, inference = np.diff(pairs)[..., 0].tolist()
    return round(statistics.median(inference) - statistics.median(empty))


def command(folder: Path, cpu: str, *, plugin: str | None = None) -> list[str]:
    """Returns the command before a script and its arguments, as words."""
    system = folder / "root" / "usr"
    guest = {
        "PYTHONHOME": str(system),
        "PYTHONPATH": str(folder / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
        # A random seed would change the order of sets, and so the count.
        "PYTHONHASHSEED": "0",
    }
    words = [
        "/usr/bin/env",
        f"LD_LIBRARY_PATH={folder / 'qemu' / 'lib'}",
        str(folder / "qemu" / "qemu-aarch64"),
        # The emulator's libraries are not the guest's.
        *("-U", "LD_LIBRARY_PATH"),
        *("-L", str(folder / "cpus" / cpu)),
        *("-cpu", cpu),
    ]
    if plugin is not None:
        words += ["-plugin", str(folder / plugin)]
    for name, value in guest.items():
        words += ["-E", f"{name}={value}"]
    return [*words, str(system / "bin" / "python3"), "-P"]


def _require_ready(cpu: str) -> None:
    if cpu not in CPUS:
        raise ValueError(
            f"`cpu` must be one of {list(CPUS)}. Received: cpu={cpu!r}."
        )
    reason = missing()
    if reason is not None:
        raise RuntimeError(reason)
