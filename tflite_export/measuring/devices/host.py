"""The time of an inference on this machine, with LiteRT's default kernels.

Times of different processes cannot be compared on a machine that does other
work. So one child loads all files and runs them in turn: a disturbance meets
all of them, and ratios hold even if times do not.
"""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.measuring.devices.records import (
    Candidate,
    Measurement,
    NotRun,
    unreadable_by_litert,
)
from tflite_export.runtime import interpreter
from tflite_export.runtime.sandbox import run_script

DEVICE = "host"
NUM_WARMUP_RUNS = 10
# At least these runs of each file, and more up to one second.
MIN_RUNS = 50
MAX_RUNS = 2_000
MIN_SECONDS = 1.0
_SCRIPT = Path(__file__).with_name("latency_child.py")


def measure(
    files: Sequence[Candidate], *, num_threads: int = 1
) -> list[Measurement | NotRun]:
    """Times all files against each other, in microseconds.

    A file's ratio to the first one is the median over the rounds.
    """
    results: dict[int, Measurement | NotRun] = {}
    sound = []
    for position, file in enumerate(files):
        unreadable = unreadable_by_litert(file, DEVICE)
        if unreadable is not None:
            results[position] = unreadable
            continue
        try:
            # Alone first: a file that crashes must not stop the others.
            interpreter.run(file.data, first_sample(file))
            sound.append(position)
        except ValueError as error:
            results[position] = NotRun.because(DEVICE, error)
    if sound:
        try:
            times_us = time_runs([files[i] for i in sound], num_threads)
        except ValueError as error:
            failure = NotRun.because(DEVICE, error)
            results |= dict.fromkeys(sound, failure)
        else:
            for position, row in zip(sound, times_us, strict=True):
                results[position] = _measurement(DEVICE, row, times_us[0])
    return [results[position] for position in range(len(files))]


def first_sample(file: Candidate) -> dict[int, np.ndarray]:
    """Returns the first sample of a file, by tensor index."""
    return {index: values[:1] for index, values in file.inputs.items()}


def time_runs(
    files: Sequence[Candidate], num_threads: int, *, delegate: str | None = None
) -> np.ndarray:
    """Returns the time of each run in microseconds, `(num_files, num_runs)`.

    A column is one round. `delegate` is a library that runs the operators.
    """
    arrays = {}
    for position, file in enumerate(files):
        arrays[f"file_{position}"] = np.frombuffer(file.data, np.uint8)
        first = interpreter.by_run(Flatbuffer(file.data), first_sample(file))
        for index, values in first.items():
            arrays[f"input_{position}_{index}"] = values
    request = {
        "num_files": len(files),
        "num_threads": num_threads,
        "cpus": pinned_cpus(num_threads),
        "num_warmup_runs": NUM_WARMUP_RUNS,
        "min_runs": MIN_RUNS,
        "max_runs": MAX_RUNS,
        "min_seconds": MIN_SECONDS,
        "delegate": delegate,
    }
    outputs, _ = run_script(_SCRIPT, b"", arrays, request)
    times_us: np.ndarray = outputs["nanoseconds"] / 1e3
    return times_us


def pinned_cpus(num_threads: int) -> list[int]:
    """Returns the CPUs of the threads; none if the system has no pinning."""
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return []
    # Not the first ones: interrupts prefer those.
    return sorted(os.sched_getaffinity(0))[-num_threads:]


def processor() -> str:
    """Returns the name of this machine's processor."""
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _measurement(
    device: str, row: np.ndarray, first: np.ndarray
) -> Measurement:
    values = {
        "median_us": round(float(np.median(row)), 2),
        "p90_us": round(float(np.percentile(row, 90)), 2),
        "ratio": round(float(np.median(row / first)), 4),
        "num_runs": len(row),
    }
    return Measurement(device, values)
