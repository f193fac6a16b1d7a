"""`benchmark`: measures files side by side, device by device."""

import functools
import numbers
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export import arm
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.kinds import as_path, read_tflite
from tflite_export.format.macs import count_macs
from tflite_export.measuring.devices import (
    android,
    edgetpu,
    emulated_arm,
    ethos_u,
    host,
    microcontroller,
)
from tflite_export.measuring.devices.records import (
    Candidate,
    Measurement,
    NotRun,
)
from tflite_export.measuring.report import BenchmarkReport, BenchmarkRow
from tflite_export.measuring.sizes import measure_sizes
from tflite_export.runtime import interpreter
from tflite_export.runtime.predicting import (
    accuracy,
    named_inputs,
    require_labels,
    run_floats,
)
from tflite_export.targets.ethos_u.target import ACCELERATORS
from tflite_export.targets.target import find_target

# Random samples on which outputs of different runtimes are compared.
NUM_SAMPLES = 8
DEFAULT_TARGETS = ("litert", "tflm", "ethos-u", "edgetpu")
_TOOLS = ("ai-edge-litert", "tflite-micro", "ethos-u-vela")

Measure = Callable[[Sequence[Candidate]], list[Measurement | NotRun]]


def benchmark(
    *paths: str | os.PathLike[str],
    targets: Sequence[str] = DEFAULT_TARGETS,
    samples: Any = None,
    labels: Any = None,
    num_threads: int = 1,
    benchmark_model: str | os.PathLike[str] | None = None,
) -> BenchmarkReport:
    """Measures files: sizes, work, times, instructions, cycles and memory.

    Every file is run in a child process with limits. If a device cannot run a
    file, or lacks its tool, the report has the reason.

    Args:
        *paths: `.tflite` files of any origin and name. Ratios are to the first
            one.
        targets: Targets to measure for, by the names of `export`:
            - `"litert"`, `"litert-sparse"`: the time here, files in turn in one
              process; instructions and outputs on AArch64 CPUs under QEMU
              (`make arm`); the time on a phone, if `adb` finds one;
            - `"tflm"`: flash, arena and outputs on a microcontroller;
            - `"ethos-u"` or a size of it: cycles and memory by Vela's model;
            - `"edgetpu"`: the time on a Coral device, if there is one.
        samples: Inputs as in training, to compare outputs on: an array of shape
            `(n, ...)`, or a dict of arrays by input name. None for random ones.
        labels: The classes of the samples, for the accuracy of each file in
            LiteRT: integers of shape `(n,)`, counted from 0.
        num_threads: Threads on this machine and on the phone. On Linux they
            are pinned to as many CPUs.
        benchmark_model: LiteRT's `benchmark_model` for the phone. None for the
            one in `/data/local/tmp` of the phone.

    Returns:
        `BenchmarkReport`; print it, or call its `plot`.

    Raises:
        ValueError: If an argument is wrong, or a file is no `.tflite` file.

    Example:

    >>> report = benchmark("model.tflite", "sparse.tflite")  # doctest: +SKIP
    >>> print(report)  # doctest: +SKIP
    """
    if not paths:
        raise ValueError("Expected paths of .tflite files. Received: none.")
    _require_threads(num_threads)
    files = [_candidate(as_path(path), samples) for path in paths]
    scores = [_accuracy(file, samples, labels) for file in files]
    program = None if benchmark_model is None else Path(benchmark_model)
    measures: dict[str, Measure] = {}
    for target in targets:
        measures |= measures_for(
            target, num_threads=num_threads, program=program
        )
    results = [measure(files) for measure in measures.values()]
    rows = []
    for position, file in enumerate(files):
        held = [column[position] for column in results]
        score = scores[position]
        if isinstance(score, NotRun):
            held.append(score)
        rows.append(
            BenchmarkRow(
                path=file.path,
                sizes=measure_sizes(file.data),
                macs=count_macs(Flatbuffer(file.data)),
                measurements=tuple(
                    r for r in held if isinstance(r, Measurement)
                ),
                not_run=tuple(r for r in held if isinstance(r, NotRun)),
                accuracy=None if isinstance(score, NotRun) else score,
            )
        )
    return BenchmarkReport(tuple(rows), _machine(num_threads))


def measures_for(
    target: str, *, num_threads: int, program: Path | None
) -> dict[str, Measure]:
    """Returns the measure of each device of a target, by device."""
    by_device: dict[str, Measure] = {
        host.DEVICE: functools.partial(host.measure, num_threads=num_threads),
        android.DEVICE: _one_by_one(
            android.measure, program=program, num_threads=num_threads
        ),
        edgetpu.DEVICE: _one_by_one(edgetpu.measure),
        microcontroller.DEVICE: _one_by_one(microcontroller.measure),
    }
    for cpu in arm.CPUS:
        by_device[cpu] = _one_by_one(emulated_arm.measure, cpu=cpu)
    for size in ACCELERATORS:
        by_device[size] = _one_by_one(ethos_u.measure, accelerator=size)
    devices = find_target(target).devices
    if not devices:
        reason = "its `Target` names no `devices` to measure on."
        return {target: _one_by_one(lambda file: NotRun(target, reason))}
    unknown = "it is no device that `benchmark` measures on."
    return {
        device: by_device.get(
            device, _one_by_one(lambda file, d=device: NotRun(d, unknown))
        )
        for device in devices
    }


def _one_by_one(measure: Callable[..., Any], **options: Any) -> Measure:
    return lambda files: [measure(file, **options) for file in files]


def _candidate(path: Path, samples: Any) -> Candidate:
    data = read_tflite(path)
    file = Flatbuffer(data)
    if samples is None:
        inputs = interpreter.random_inputs(file, NUM_SAMPLES)
        return Candidate(path, data, inputs)
    named = samples if isinstance(samples, dict) else {"": samples}
    arrays = [np.asarray(values) for values in named.values()]
    shapes = sorted(array.shape[1:] for array in arrays)
    needed = sorted(map(interpreter.sample_shape, file.inputs().values()))
    if shapes != needed:
        raise ValueError(
            f"`samples` must have the shapes of the inputs of {str(path)!r}, "
            f"{needed} without the batch axis. Received: {shapes}."
        )
    inputs = interpreter.quantized_inputs(file, arrays, list(named))
    return Candidate(path, data, inputs)


def _accuracy(
    file: Candidate, samples: Any, labels: Any
) -> float | NotRun | None:
    """The accuracy of a file in LiteRT, or why it has none."""
    if labels is None:
        return None
    if samples is None:
        raise ValueError(
            "`labels` need samples. Received: samples=None. Give `samples`."
        )
    flatbuffer = Flatbuffer(file.data)
    inputs = named_inputs(flatbuffer, samples)
    num_samples = len(next(iter(inputs.values())))
    classes = require_labels(labels, flatbuffer.outputs(), num_samples)
    try:
        return accuracy(run_floats(file.data, inputs), classes)
    except ValueError as error:
        return NotRun.because("accuracy", error)


def _require_threads(num_threads: int) -> None:
    available = os.cpu_count() or 1
    is_number = isinstance(num_threads, numbers.Integral)
    if not is_number or not 1 <= num_threads <= available:
        raise ValueError(
            f"`num_threads` must be an integer in [1, {available}], the CPUs "
            f"of this machine. Received: num_threads={num_threads!r}."
        )


def _machine(num_threads: int) -> dict[str, str]:
    # Slow to import, and a wrong argument needs none.
    import importlib.metadata

    cpus = host.pinned_cpus(num_threads)
    pinned = f"pinned to CPU {cpus}" if cpus else "not pinned"
    versions = {}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "host": host.processor(),
        "threads": f"{num_threads}, {pinned}",
        **versions,
    }
