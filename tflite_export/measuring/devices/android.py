"""The time of an inference on an attached Android phone, through `adb`.

The phone runs LiteRT's own `benchmark_model`, a native program of one file,
published for each release. The model's file is pushed beside it.
"""

import re
import shutil
import subprocess
from pathlib import Path

from tflite_export.measuring.devices.records import (
    Candidate,
    Measurement,
    NotRun,
    unreadable_by_litert,
)

DEVICE = "android"
FOLDER = "/data/local/tmp"
TIME_LIMIT_S = 300.0
NUM_WARMUP_RUNS = 10
MIN_RUNS = 50
_PUSHED_MODEL = f"{FOLDER}/tflite_export_model.tflite"
_PUSHED_PROGRAM = f"{FOLDER}/tflite_export_benchmark_model"
_INSTALLED_PROGRAM = f"{FOLDER}/benchmark_model"
_NUMBER = r"([0-9.]+(?:e[+-]?[0-9]+)?)"
_COUNT_LINE = re.compile(rf"count=(\d+) .*?avg={_NUMBER}([^\n]*)")
_INIT = re.compile(rf"Inference timings in us: Init: {_NUMBER}")
_QUANTILE = re.compile(rf"(median|p95)={_NUMBER}")


def measure(
    file: Candidate, *, program: Path | None = None, num_threads: int = 1
) -> Measurement | NotRun:
    """Times a file in microseconds on the phone that `adb` knows."""
    unreadable = unreadable_by_litert(file, DEVICE)
    if unreadable is not None:
        return unreadable
    try:
        _require_one_phone()
        try:
            remote = _program_on_phone(program)
            _adb("push", str(file.path), _PUSHED_MODEL)
            text = _adb(
                "shell",
                f"{remote} --graph={_PUSHED_MODEL} --num_threads={num_threads} "
                f"--warmup_runs={NUM_WARMUP_RUNS} --num_runs={MIN_RUNS} 2>&1",
            )
        finally:
            _adb("shell", f"rm -f {_PUSHED_MODEL} {_PUSHED_PROGRAM}")
        values = parse_times(text)
        phone = _adb("shell", "getprop ro.product.model").strip()
    except ValueError as error:
        return NotRun.because(DEVICE, error)
    return Measurement(DEVICE, {**values, "phone": phone})


def parse_times(text: str) -> dict[str, float]:
    """Returns the times that `benchmark_model` printed.

    Not all versions print quantiles. The last line `count=...` is used; the
    line before it is the warm-up's.

    Example:

    >>> parse_times('''
    ... count=9 first=90 curr=60 min=60 max=90 avg=63.2 std=8
    ... count=50 first=62 curr=60 min=58 max=70 avg=61.5 std=2 p5=58 \
median=61 p95=68
    ... Inference timings in us: Init: 855, First inference: 90, \
Warmup (avg): 63.2, Inference (avg): 61.5
    ... ''')
    {'num_runs': 50, 'mean_us': 61.5, 'median_us': 61.0, 'p95_us': 68.0, \
'init_us': 855.0}
    """
    lines = _COUNT_LINE.findall(text)
    init = _INIT.search(text)
    if not lines or init is None:
        last = " / ".join(text.strip().splitlines()[-2:]) or "nothing"
        raise ValueError(
            "`benchmark_model` must print 'Inference timings in us'. "
            f"Received: {last}."
        )
    count, mean, rest = lines[-1]
    quantiles = {f"{name}_us": float(v) for name, v in _QUANTILE.findall(rest)}
    return {
        "num_runs": int(count),
        "mean_us": float(mean),
        **quantiles,
        "init_us": float(init[1]),
    }


def _require_one_phone() -> None:
    if shutil.which("adb") is None:
        raise ValueError(
            "no `adb` on PATH. Install Android's platform tools and attach a "
            "phone."
        )
    rows = [line.split() for line in _adb("devices").splitlines()[1:]]
    states = {row[0]: row[1] for row in rows if len(row) >= 2}
    if not states:
        raise ValueError("no phone: `adb devices` lists none.")
    if len(states) > 1:
        # adb itself then asks for ANDROID_SERIAL, which it reads.
        _adb("get-state")
    elif "device" not in states.values():
        raise ValueError(
            f"the phone is {next(iter(states.values()))}. Unlock it and allow "
            "USB debugging."
        )


def _program_on_phone(program: Path | None) -> str:
    if program is not None:
        _adb("push", str(program), _PUSHED_PROGRAM)
        _adb("shell", f"chmod 755 {_PUSHED_PROGRAM}")
        return _PUSHED_PROGRAM
    found = _adb("shell", f"ls {_INSTALLED_PROGRAM} 2>/dev/null || true")
    if found.strip() != _INSTALLED_PROGRAM:
        raise ValueError(
            f"no `benchmark_model` in {FOLDER} of the phone. Name one for its "
            "processor with `benchmark_model=` (`--benchmark-model`)."
        )
    return _INSTALLED_PROGRAM


def _adb(*arguments: str) -> str:
    try:
        child = subprocess.run(
            ["adb", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"`adb {arguments[0]}` gave no answer in {TIME_LIMIT_S:g} s."
        ) from error
    except OSError as error:
        raise ValueError(f"`adb` could not be started: {error}.") from error
    if child.returncode:
        text = (child.stderr.strip() or child.stdout.strip()).splitlines()
        last = text[-1] if text else f"exit code {child.returncode}"
        raise ValueError(f"`adb {arguments[0]}` failed: {last}.")
    return child.stdout
