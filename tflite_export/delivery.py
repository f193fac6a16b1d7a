"""The last steps of an export: storage, proof, the target's own files."""

import functools
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tflite_export import arm
from tflite_export.files import write_atomically
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.measuring.sizes import measure_sizes
from tflite_export.result import DeviceReport, ExportResult
from tflite_export.runtime.interpreter import Run, run
from tflite_export.targets import accelerator, edgetpu
from tflite_export.targets.ethos_u import target as ethos_u
from tflite_export.targets.litert_sparse import target as litert_sparse
from tflite_export.targets.litert_storage import store_weights
from tflite_export.targets.tflm import target as tflm
from tflite_export.targets.tflm.source import header, source
from tflite_export.verification.report import VerificationReport
from tflite_export.verification.verify import METADATA_NAME
from tflite_export.weights.integer_graph import TrainedWeight, WrittenWeights
from tflite_export.weights.sites import float_operators

# The microcontroller's runtime is compared on as many; it is slow.
MAX_DEVICE_SAMPLES = 16


class Proof(NamedTuple):
    """How a file is compared with its model.

    `compare` takes the bytes of a file, what runs it (None for this machine)
    and how many samples are enough (None for all); `inputs` gives the samples
    in the types of a file's inputs, by tensor index.
    """

    compare: Callable[[bytes, Run | None, int | None], VerificationReport]
    inputs: Callable[[Flatbuffer], dict[int, np.ndarray]]


class _Package(NamedTuple):
    """What a target makes of a proven file."""

    data: bytes
    others: Mapping[str, bytes]
    device: DeviceReport | None
    notes: tuple[str, ...]


def deliver(
    file: Flatbuffer,
    written: WrittenWeights,
    trained: Mapping[str, TrainedWeight],
    path: Path,
    proof: Proof,
    *,
    target: str,
    weight_storage: str,
) -> ExportResult:
    """Stores the weights, proves the file and writes all files of the target.

    Args:
        file: The file with the trained integers; its storage is changed.
        written: What was done to it.
        trained: The trained weights by path.
        path: The file to write.
        proof: How it is compared with the model.
        target: As in `export`.
        weight_storage: As in `export`.

    Returns:
        `ExportResult`.

    Raises:
        RuntimeError: If a code in the file is not the trained one.
        ValueError: If the target cannot run the file.
    """
    notes = list(written.notes)
    file.shorten_names()
    dense = file.to_bytes()
    if target == "litert":
        notes += store_weights(file, weight_storage)
        _require_same_outputs(dense, file, proof)
    if target == litert_sparse.TARGET:
        notes += litert_sparse.store(file)
    if target == "tflm":
        tflm.write_convolutions(file)
    record = _record(trained, written.silent_channels)
    text = json.dumps(record, separators=(",", ":"))
    file.set_metadata(METADATA_NAME, text.encode())
    data = file.to_bytes()
    report = proof.compare(data, None, None)
    if not report.codes_equal:
        raise RuntimeError(
            "Expected the trained integers in the file. Received: others in "
            f"{list(report.unequal)}; the file was not written. This is a "
            "fault of the exporter: please report the model."
        )
    if target == litert_sparse.TARGET:
        package = _phone_package(file, data, dense, proof, report)
    else:
        package = _package(file, data, path, proof, target, weight_storage)
    others = {path.with_name(n): d for n, d in package.others.items()}
    write_atomically({path: package.data, **others})
    if target != litert_sparse.TARGET:
        notes += [
            f"{name} computes in float32 (operators: {count})."
            for name, count in float_operators(file).items()
        ]
    sizes = measure_sizes(package.data)
    return ExportResult(
        path=path,
        size_bytes=sizes.file_bytes,
        verification=report,
        notes=(*notes, *package.notes),
        gzip_size_bytes=sizes.gzip_bytes,
        zstd_size_bytes=sizes.zstd_bytes,
        weight_bytes=sizes.weight_bytes,
        entropy_bytes=round(sizes.entropy_bytes, 1),
        other_files=tuple(others),
        device=package.device,
    )


def _require_same_outputs(dense: bytes, file: Flatbuffer, proof: Proof) -> None:
    """A storage changes bytes, not results: it is proven by running both."""
    stored = file.to_bytes()
    if stored == dense:
        return
    inputs = proof.inputs(file)
    expected, actual = run(dense, inputs), run(stored, inputs)
    # Kernels of packed weights round once more, half a step each at most.
    allowed = len(file.operators)
    worst = max(
        float(np.abs(actual[i].astype(float) - values).max(initial=0))
        for i, values in expected.items()
    )
    if not worst <= allowed:
        raise ValueError(
            "LiteRT must compute the same from the stored weights. Received: "
            f"outputs {worst:g} steps from those of dense int8 weights. Use "
            "`weight_storage='int8'`."
        )


def _package(
    file: Flatbuffer,
    data: bytes,
    path: Path,
    proof: Proof,
    target: str,
    weight_storage: str,
) -> _Package:
    size = accelerator(target)
    if size is not None:
        report = ethos_u.compile_file(data, accelerator=size)
        ethos_u.require_no_fallback(report)
        name = f"{path.stem}_vela.tflite"
        return _Package(data, {name: report.compiled}, report, ())
    if target == "tflm":
        return _microcontroller_package(file, data, path, proof, weight_storage)
    if target == "edgetpu":
        check = edgetpu.check_file(data)
        if not check.is_ok:
            raise ValueError(
                "All operators must run on the Edge TPU. Received:\n"
                + "\n".join(f"- {f}" for f in check.findings if f.is_blocking)
            )
        return _Package(data, {}, None, tuple(map(str, check.findings)))
    return _Package(data, {}, None, ())


def _phone_package(
    file: Flatbuffer,
    data: bytes,
    dense: bytes,
    proof: Proof,
    report: VerificationReport,
) -> _Package:
    """Compares the outputs on ARM as well, where other kernels compute them.

    Args:
        file: The file.
        data: Its bytes.
        dense: The same file before its weights became sparse.
        proof: How it is compared with the model.
        report: The comparison on this machine.

    Raises:
        ValueError: If one of them is not the model's, or not faster.
    """
    litert_sparse.require_equal(
        report, "this machine", tolerance=litert_sparse.MAX_ROUNDING
    )
    tolerance = litert_sparse.arm_tolerance(report)
    reason = arm.missing()
    if reason is not None:
        return _Package(data, {}, None, (f"Not verified on ARM: {reason}",))
    differences = {}
    for cpu in arm.CPUS:
        run_on = functools.partial(arm.run, cpu=cpu)
        report = proof.compare(data, run_on, MAX_DEVICE_SAMPLES)
        litert_sparse.require_equal(report, cpu, tolerance=tolerance)
        differences[cpu] = report.max_output_lsb
    inputs = proof.inputs(file)
    device = litert_sparse.ArmReport(
        differences,
        report.num_samples,
        arm.count_instructions(data, inputs),
        arm.count_instructions(dense, inputs),
    )
    litert_sparse.require_faster(device)
    return _Package(data, {}, device, ())


def _microcontroller_package(
    file: Flatbuffer,
    data: bytes,
    path: Path,
    proof: Proof,
    weight_storage: str,
) -> _Package:
    inputs = {
        index: values[:MAX_DEVICE_SAMPLES]
        for index, values in proof.inputs(file).items()
    }
    dense = tflm.measure(data, inputs)
    compressed, names = tflm.compress(data)
    notes: tuple[str, ...] = ()
    shipped, report = data, dense
    if len(compressed) < len(data):
        tables = tflm.measure(compressed, inputs, reference=data)
        effect = (
            f"{len(data) - len(compressed):,} bytes of flash less and "
            f"{tables.arena_bytes - dense.arena_bytes:,} bytes of RAM more, by "
            f"look-up tables for {len(names)} weight tensors"
        )
        if weight_storage == "lut":
            shipped, report, notes = compressed, tables, (f"{effect}.",)
        else:
            notes = (f"`weight_storage='lut'` would make it {effect}.",)
    elif weight_storage == "lut":
        raise ValueError(
            "`weight_storage='lut'` must make a file smaller. Received: a "
            "model whose tensors have too many different values for their "
            "size. Use 'auto'."
        )
    operators = Flatbuffer(shipped).operators
    others = {
        f"{path.stem}.cc": source(shipped, header_name=f"{path.stem}.h"),
        f"{path.stem}.h": header(operators, arena_bytes=report.arena_bytes),
    }
    encoded = {name: text.encode() for name, text in others.items()}
    return _Package(shipped, encoded, report, notes)


def _record(
    trained: Mapping[str, TrainedWeight], silent_channels: Mapping[str, int]
) -> dict[str, Any]:
    """What the file says about its making, as JSON."""
    try:
        version = importlib.metadata.version("codeq-keras")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return {
        "library": "codeq-keras",
        "version": version,
        "weights": [
            {
                "path": path,
                "bit_width": int(weight.bit_width),
                "sparsity": round(float(np.mean(weight.codes == 0)), 6),
                "silent_channels": silent_channels.get(path, 0),
            }
            for path, weight in trained.items()
        ],
    }
