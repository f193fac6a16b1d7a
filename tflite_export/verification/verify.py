"""Compares a `.tflite` file with the model it was made from."""

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np

from tflite_export.conversion.graphs import named_outputs, ranged_model
from tflite_export.format.borders import Borders
from tflite_export.format.decoding import decoded_constants
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.kinds import read_tflite
from tflite_export.format.records import Tensor
from tflite_export.runtime import interpreter
from tflite_export.runtime.predicting import accuracy, require_labels
from tflite_export.samples import pack_inputs
from tflite_export.trained_model import TrainedModel, read_model
from tflite_export.verification.by_layer import layer_agreement
from tflite_export.verification.report import (
    OutputComparison,
    VerificationReport,
)
from tflite_export.weights.reading_back import unequal_weights

if TYPE_CHECKING:
    import codeq_keras

_BATCH_SIZE = 32
# Float32 rounding of a difference of 255 steps.
_STEP_ROUNDING = 1e-3


def verify(
    path: str | os.PathLike[str],
    model: "codeq_keras.QuantizedModel",
    samples: Any = None,
    labels: Any = None,
) -> VerificationReport:
    """Compares a file with a quantized model: the codes and the outputs.

    The codes are found in the file by their content. So this proves a file of
    any origin, and finds a single changed code.

    Args:
        path: The `.tflite` file.
        model: Model from `codeq_keras.quantize_model`, or of TFMOT with CoDeQ.
        samples: Inputs to run both on, as `representative_dataset` of
            `export`; all of them are used. None for random ones over the
            ranges of the file's inputs.
        labels: Their classes, for the accuracy of the file and of the model:
            integers of shape `(n,)`, counted from 0, or `(n, ...)` for an
            output with classes at each place.

    Returns:
        `VerificationReport`; differences raise no error.

    Raises:
        ValueError: If the file is no `.tflite` file, the model is not
            quantized, the samples do not have the model's input shape, or the
            labels are not the classes of the samples.

    Example:

    >>> import codeq_keras, tempfile, tflite_export
    >>> from pathlib import Path
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> qmodel = codeq_keras.quantize_model(model)
    >>> samples = np.random.default_rng(0).normal(size=(32, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.tflite")
    ...     _ = tflite_export.export(
    ...         qmodel, path, representative_dataset=samples
    ...     )
    ...     verify(path, qmodel, samples).codes_equal
    True
    """
    data = read_tflite(path)
    trained = read_model(model, samples, argument="samples", limit=None)
    file = Flatbuffer(data)
    if labels is None:
        if samples is None:
            trained = trained.with_random_samples(file)
        return compare(data, trained)
    if trained.samples is None:
        raise ValueError(
            "`labels` need samples. Received: samples=None. Give `samples`."
        )
    num_samples = len(trained.samples[0])
    classes = require_labels(labels, file.outputs(), num_samples)
    report, both = _compared(data, trained)
    return dataclasses.replace(
        report,
        accuracy=accuracy(both.actual, classes),
        model_accuracy=accuracy(both.expected, classes),
    )


def prove(data: bytes, trained: TrainedModel) -> VerificationReport:
    """Compares a file with its model; a code that differs is an error."""
    report = compare(data, trained)
    if not report.codes_equal:
        raise RuntimeError(
            "Expected the trained codes in the file. Received: others in "
            f"{list(report.unequal)}; the file was not written. This is a "
            "fault of the exporter: please report the model."
        )
    return report


def compare(
    data: bytes,
    trained: TrainedModel,
    *,
    run_on: interpreter.Run | None = None,
    limit: int | None = None,
) -> VerificationReport:
    """Compares a file with a trained model: its codes, and its outputs.

    The outputs are of the first `limit` samples of the model. `run_on` runs
    the file; None is this machine.
    """
    report, _ = _compared(data, trained, run_on, limit)
    return report


class _Outputs(NamedTuple):
    """The outputs of the file and of the model, by their names in the file."""

    actual: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]


def _compared(
    data: bytes,
    trained: TrainedModel,
    run_on: interpreter.Run | None = None,
    limit: int | None = None,
) -> tuple[VerificationReport, _Outputs]:
    file = Flatbuffer(data)
    samples = [array[:limit] for array in trained.samples or ()]
    expected = _predict(trained, samples)
    names = [spec.name for spec in trained.inputs]
    given = dict(zip(names, samples, strict=True))
    given = _by_name_in_file("inputs", file.inputs(), given)
    expected = _by_name_in_file("outputs", file.outputs(), expected)
    # LiteRT lacks the operator that unpacks weights on microcontrollers.
    dense = decoded_constants(file).dense(data)
    actual = interpreter.predict(dense, samples, names, run_on=run_on)
    outputs = _Outputs(actual, expected)
    unequal = unequal_weights(file, trained.weights, trained.kernels)
    compared = tuple(
        _compare_output(
            name, Borders(file).step(tensor), actual[name], expected[name]
        )
        for name, tensor in file.outputs().items()
    )
    report = VerificationReport(
        codes_equal=not unequal,
        num_tensors=len(trained.weights),
        unequal=tuple(unequal),
        outputs=compared,
        num_samples=len(samples[0]),
    )
    if not report.differs:
        return report, outputs
    narrow = {
        **narrow_features(file.inputs(), given),
        **narrow_features(file.outputs(), expected),
    }
    report = dataclasses.replace(report, narrow_features=narrow)
    if not trained.ranges:
        return report, outputs
    ranged = ranged_model(trained, trained.plain)
    agreement = layer_agreement(
        Flatbuffer(dense), ranged, trained.inputs, samples
    )
    report = dataclasses.replace(report, layer_agreement=agreement)
    return report, outputs


def _by_name_in_file(
    side: str, tensors: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The model's arrays by the file's names; of other names the order counts.

    Other numbers or shapes are a ValueError.
    """
    if set(arrays) == set(tensors):
        arrays = {name: arrays[name] for name in tensors}
    held = [tensor.shape[1:] for tensor in tensors.values()]
    expected = [array.shape[1:] for array in arrays.values()]
    if held != expected:
        raise ValueError(
            f"The {side} of the file must have the shapes of the model's, "
            f"{expected} without the batch axis. Received: {held}. Is it the "
            "file of another model?"
        )
    return dict(zip(tensors, arrays.values(), strict=True))


def narrow_features(
    tensors: Mapping[str, Tensor], values: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, ...]]:
    """Returns the features that vary by less than one step of their tensor.

    They are places in the last axis, by the tensor's name. Constant features
    have nothing to lose.
    """
    narrow = {}
    for name, tensor in tensors.items():
        if tensor.scales.size != 1 or values[name].ndim < 2:
            continue
        rows = values[name].reshape(-1, values[name].shape[-1])
        widths = np.ptp(rows.astype(np.float64), axis=0)
        places = np.flatnonzero((widths > 0) & (widths < tensor.scales[0]))
        if places.size:
            narrow[name] = tuple(places.tolist())
    return narrow


def _predict(
    trained: TrainedModel, samples: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """The model's outputs by their names in its file."""
    batches = []
    for start in range(0, len(samples[0]), _BATCH_SIZE):
        batch = [array[start : start + _BATCH_SIZE] for array in samples]
        packed = pack_inputs(trained.plain, batch)
        outputs = trained.reference(packed, training=False)
        batches.append(named_outputs(outputs))
    return {
        name: np.concatenate(
            [keras.ops.convert_to_numpy(batch[name]) for batch in batches]
        )
        for name in batches[0]
    }


def _compare_output(
    name: str, step: float | None, actual: np.ndarray, expected: np.ndarray
) -> OutputComparison:
    is_float = step is None
    if step is None:
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
