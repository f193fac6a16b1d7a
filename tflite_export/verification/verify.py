"""Compares a `.tflite` file with the model it was made from."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

import codeq_keras
from tflite_export import qat
from tflite_export.conversion.ranged_model import (
    RangedModel,
    has_trained_ranges,
)
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Tensor
from tflite_export.runtime import interpreter
from tflite_export.samples import (
    ModelInput,
    model_inputs,
    pack_inputs,
    sample_arrays,
)
from tflite_export.verification import by_layer
from tflite_export.verification.report import (
    MIN_TOP1_AGREEMENT,
    MIN_WITHIN_ONE_LSB,
    OutputComparison,
    VerificationReport,
)
from tflite_export.weights.reading_back import unequal_weights

METADATA_NAME = "codeq_keras"
_BATCH_SIZE = 32
# Float32 rounding of a difference of 255 steps.
_STEP_ROUNDING = 1e-3


def verify(
    path: str | os.PathLike[str],
    model: "codeq_keras.QuantizedModel",
    samples: Any,
) -> VerificationReport:
    """Compares a file with a quantized model: the integers and the outputs.

    The integers are found again in the file by their content, so this proves
    a file of any origin, and finds a single changed one.

    Args:
        path: The `.tflite` file.
        model: Model from `codeq_keras.quantize_model`, or of TFMOT with CoDeQ.
        samples: Inputs to run both on, as `representative_dataset` of
            `export`; all of them are used.

    Returns:
        `VerificationReport`; it raises nothing about differences.

    Raises:
        ValueError: If the file is no `.tflite` file, the model is not
            quantized, or the samples do not have the model's input shape.
    """
    kernels = None
    if qat.is_tf_keras(model):
        stripped = model
        trained, kernels = qat.weights(model)
    else:
        trained = codeq_keras.quantized_weights(model)
        stripped = codeq_keras.strip_quantizers(model)
    inputs = model_inputs(stripped)
    return compare(
        Path(path).read_bytes(),
        stripped,
        trained,
        inputs,
        sample_arrays(samples, inputs, argument="samples", limit=None),
        kernels=kernels,
        reference=model,
    )


def compare(
    data: bytes,
    stripped: keras.Model,
    trained: Mapping[str, "codeq_keras.QuantizedWeight"],
    inputs: list[ModelInput],
    samples: list[np.ndarray],
    *,
    kernels: Mapping[str, np.ndarray] | None = None,
    reference: keras.Model | None = None,
    run_on: interpreter.Run | None = None,
) -> VerificationReport:
    """Compares the bytes of a file with a stripped model and its integers.

    Args:
        data: The file.
        stripped: Model without quantizers, kernels = codes * scale.
        trained: The trained weights by path.
        inputs: The inputs of `stripped`.
        samples: One array of shape `(n, ...)` for each input.
        kernels: All weights as `ordered_weights` has them; None to read them
            from `stripped`.
        reference: Model whose outputs count; None for `stripped`.
        run_on: What runs the file; None for this machine.

    Returns:
        `VerificationReport`.
    """
    file = Flatbuffer(data)
    unequal = unequal_weights(
        file,
        trained,
        ordered_weights(stripped, trained) if kernels is None else kernels,
        _silent_channels(file),
    )
    expected = _predict(reference or stripped, stripped, samples)
    _require_same_shapes("inputs", file.inputs(), samples)
    _require_same_shapes("outputs", file.outputs(), expected)
    names = [spec.name for spec in inputs]
    actual = interpreter.predict(data, samples, names, run_on=run_on)
    outputs = tuple(
        _compare_output(name, tensor, a, e)
        for (name, tensor), a, e in zip(
            file.outputs().items(), actual, expected, strict=True
        )
    )
    report = VerificationReport(
        codes_equal=not unequal,
        num_tensors=len(trained),
        unequal=tuple(unequal),
        outputs=outputs,
        num_samples=len(samples[0]),
    )
    if reference is None or not (_parts(report) and _is_ranged(reference)):
        return report
    agreement = by_layer.layer_agreement(
        file, RangedModel(reference, stripped), inputs, samples
    )
    return dataclasses.replace(report, layer_agreement=agreement)


def _parts(report: VerificationReport) -> bool:
    agreement = report.top1_agreement
    is_other_class = agreement is not None and agreement < MIN_TOP1_AGREEMENT
    return is_other_class or report.within_one_lsb < MIN_WITHIN_ONE_LSB


def _is_ranged(model: Any) -> bool:
    is_keras = isinstance(model, codeq_keras.QuantizedModel)
    return is_keras and has_trained_ranges(model)


def ordered_weights(
    stripped: keras.Model,
    trained: Mapping[str, "codeq_keras.QuantizedWeight"],
) -> dict[str, np.ndarray]:
    """Returns all weights of rank 2 or more, in the order of the model.

    Trained ones are given by their codes, the others by their values. They are
    told apart by their values too, since variable paths are not unique.
    """
    waiting = {path: w.codes * w.scale for path, w in trained.items()}
    ordered: dict[str, np.ndarray] = {}
    for variable in stripped.weights:
        array = np.asarray(variable).astype(np.float32)
        if array.ndim < 2:
            continue
        for path, values in waiting.items():
            if values.shape == array.shape and np.allclose(
                values, array, rtol=1e-5, atol=0
            ):
                ordered[path] = trained[path].codes
                del waiting[path]
                break
        else:
            path = variable.path
            while path in ordered or path in trained:
                path += "'"
            ordered[path] = array
    return ordered | {path: trained[path].codes for path in waiting}


def _require_same_shapes(
    side: str, tensors: Mapping[str, Tensor], arrays: list[np.ndarray]
) -> None:
    # In any order: the names say which is which.
    held = sorted(tensor.shape[1:] for tensor in tensors.values())
    expected = sorted(array.shape[1:] for array in arrays)
    if held != expected:
        raise ValueError(
            f"The {side} of the file must have the shapes of the model's, "
            f"{expected} without the batch. Received: {held}. Is it the file "
            "of another model?"
        )


def _predict(
    model: keras.Model, stripped: keras.Model, samples: list[np.ndarray]
) -> list[np.ndarray]:
    """The model's outputs as a flat list of arrays."""
    batches = []
    for start in range(0, len(samples[0]), _BATCH_SIZE):
        batch = [array[start : start + _BATCH_SIZE] for array in samples]
        outputs = model(pack_inputs(stripped, batch), training=False)
        batches.append(
            [keras.ops.convert_to_numpy(o) for o in keras.tree.flatten(outputs)]
        )
    return [np.concatenate(column) for column in zip(*batches, strict=True)]


def _compare_output(
    name: str, tensor: Tensor, actual: np.ndarray, expected: np.ndarray
) -> OutputComparison:
    # An integer output without a scale counts: its step is 1.
    step = float(tensor.scales[0]) if tensor.scales.size else 1.0
    is_float = tensor.dtype == "float32"
    if is_float:
        # A constant output has no range; its size stands for it.
        step = float(np.ptp(expected) or np.abs(expected).max() or 1.0)
    difference = np.abs(actual - expected) / step
    agreement = None
    if expected.ndim >= 2 and expected.shape[-1] >= 2:
        same = actual.argmax(axis=-1) == expected.argmax(axis=-1)
        agreement = float(same.mean())
    return OutputComparison(
        name=name,
        max_lsb=float(difference.max()),
        p99_lsb=float(np.percentile(difference, 99)),
        top1_agreement=agreement,
        within_one_lsb=float(np.mean(difference <= 1 + _STEP_ROUNDING)),
        relative_to_range=is_float,
    )


def _silent_channels(file: Flatbuffer) -> dict[str, int]:
    """What the exporter recorded about channels with a gain of zero."""
    data = file.metadata(METADATA_NAME)
    if not data:
        return {}
    try:
        return {
            str(weight["path"]): int(weight["silent_channels"])
            for weight in json.loads(data)["weights"]
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"Expected the exporter's record in the metadata {METADATA_NAME!r} "
            f"of the file. Received: {bytes(data[:40])!r} ({error!r}). Is the "
            "file damaged?"
        ) from error
