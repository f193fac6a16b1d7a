"""Holds a file to limits and to the numbers of before, for a CI."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.kinds import as_path, read_tflite
from tflite_export.inspection import tensor_rows
from tflite_export.measuring.gate_report import (
    ACCELERATOR_KEY,
    IN_BASELINE,
    MEASURES,
    GateCheck,
    GateReport,
    Limits,
)

ACCELERATOR = "ethos-u55-128"
TOLERANCE = 0.01


def gate(
    path: str | os.PathLike[str],
    limits: Limits,
    *,
    baseline: Mapping[str, Any] | None = None,
    tolerance: float = TOLERANCE,
    reference: str | os.PathLike[str] | None = None,
    samples: Any = None,
    accelerator: str = ACCELERATOR,
) -> GateReport:
    """Measures what the limits and the baseline name, and compares.

    `baseline` has the numbers of before, as of `read_baseline`: bytes, arena
    and cycles may be larger by the fraction `tolerance` of them, and zeros
    fewer. The agreement is with the file `reference` on `samples`. What is
    asked and cannot be measured is a ValueError.
    """
    path = as_path(path)
    data = read_tflite(path)
    before = {n: v for n, v in (baseline or {}).items() if n in MEASURES}
    _require_accelerator(baseline or {}, accelerator)
    asked = limits.by_measure()
    measured = _measured(path, data, {*asked, *before}, accelerator)
    if "agreement" in asked:
        measured["agreement"] = _agreement(path, reference, samples)
    checks = []
    for name, measure in MEASURES.items():
        if name in asked:
            checks.append(_check(name, measured, asked[name], "limit"))
        if name in before:
            change = tolerance if measure.grows_worse else -tolerance
            allowed = before[name] * (1 + change)
            if isinstance(before[name], int):
                allowed = math.floor(allowed)
            origin = f"baseline, {tolerance:.2%}"
            checks.append(_check(name, measured, allowed, origin))
    return GateReport(path, tuple(checks), measured)


def read_baseline(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what `--write-baseline` wrote; another file is an error."""
    try:
        held = json.loads(Path(path).read_text())
        unknown = set(held) - {*IN_BASELINE, ACCELERATOR_KEY}
        numbers = [v for k, v in held.items() if k != ACCELERATOR_KEY]
        if unknown or not numbers:
            raise ValueError(f"the entries {sorted(held)}")
        if not all(type(v) in (int, float) and v >= 0 for v in numbers):
            raise ValueError(f"the numbers {numbers}")
        return dict(held)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            "Expected a baseline that `tflite-export gate --write-baseline` "
            f"wrote. Received: {str(path)!r}, {error}. Write it again."
        ) from error


def _check(
    name: str, measured: Mapping[str, float], limit: float, origin: str
) -> GateCheck:
    return GateCheck(name, measured[name], limit, origin)


def _measured(
    path: Path, data: bytes, needed: set[str], accelerator: str
) -> dict[str, float]:
    measured: dict[str, float] = {"bytes": len(data)}
    if needed & {"arena_bytes", "cycles"}:
        measured |= _on_devices(path, data, needed, accelerator)
    sparsity = _sparsity(data)
    if sparsity is not None:
        measured["sparsity"] = sparsity
    elif "sparsity" in needed:
        raise ValueError(
            "Expected weights whose zeros can be counted. Received: "
            f"{str(path)!r}, which has none: a device's compiler packed them, "
            "or there are none. Leave out `--min-sparsity`, or give the file "
            "from before it."
        )
    return measured


def _on_devices(
    path: Path, data: bytes, needed: set[str], accelerator: str
) -> dict[str, float]:
    # Imported here: bytes and zeros need no tool, and no target.
    from tflite_export.measuring.devices import ethos_u, microcontroller
    from tflite_export.measuring.devices.records import Candidate
    from tflite_export.runtime.interpreter import zero_inputs

    candidate = Candidate(path, data, zero_inputs(Flatbuffer(data)))
    measured: dict[str, float] = {}
    if "arena_bytes" in needed:
        values = _values(microcontroller.measure(candidate), "the arena")
        measured["arena_bytes"] = int(values["arena_bytes"])
    if "cycles" in needed:
        found = ethos_u.measure(candidate, accelerator=accelerator)
        values = _values(found, "cycles")
        if values["num_cpu_operators"]:
            raise ValueError(
                "Expected a file that runs on the NPU alone: Vela counts no "
                f"cycles of a CPU. Received: {values['num_cpu_operators']} "
                "operators on the CPU. `tflite-export check --target "
                f"{accelerator}` names them."
            )
        measured["cycles"] = int(values["cycles"])
    return measured


def _values(found: Any, what: str) -> Mapping[str, Any]:
    """The results of a measure; what was not run is an error here."""
    reason = getattr(found, "reason", None)
    if reason is not None:
        raise ValueError(
            f"Expected a file and a tool that tell {what}. Received, on "
            f"{found.device}: {reason}"
        )
    values: Mapping[str, Any] = found.values
    return values


def _sparsity(data: bytes) -> float | None:
    """The fraction of zeros among all weights whose values are known."""
    rows = [row for row in tensor_rows(data) if row.is_weight]
    known = [
        (row.num_zeros, math.prod(row.shape))
        for row in rows
        if row.num_zeros is not None
    ]
    size = sum(n for _, n in known)
    return sum(zeros for zeros, _ in known) / size if size else None


def _agreement(
    path: Path, reference: str | os.PathLike[str] | None, samples: Any
) -> float:
    if reference is None or samples is None:
        raise ValueError(
            "`--min-agreement` needs a file to agree with, and samples. "
            "Received: none. Add `--reference other.tflite --samples x.npy`."
        )
    from tflite_export.runtime.predicting import predict

    outputs = [predict(file, samples) for file in (path, reference)]
    first, second = (
        held if isinstance(held, dict) else {"": held} for held in outputs
    )
    pairs = list(zip(first.values(), second.values(), strict=False))
    shapes = [
        [values.shape for values in held.values()] for held in (first, second)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"Expected outputs of the shapes {shapes[1]}, as of "
            f"{str(reference)!r}. Received: {shapes[0]} of {str(path)!r}. Is "
            "it the file of another model?"
        )
    if any(a.ndim < 2 or a.shape[-1] < 2 for a, _ in pairs):
        raise ValueError(
            "`--min-agreement` needs outputs of several classes. Received: "
            f"outputs of shape {shapes[0]}. Leave it out."
        )
    same = [a.argmax(axis=-1) == b.argmax(axis=-1) for a, b in pairs]
    return float(min(np.mean(each) for each in same))


def _require_accelerator(baseline: Mapping[str, Any], accelerator: str) -> None:
    held = baseline.get(ACCELERATOR_KEY, accelerator)
    if held != accelerator:
        raise ValueError(
            f"Expected cycles of {accelerator!r} in the baseline. Received: "
            f"those of {held!r}. Add `--accelerator {held}`."
        )
