"""`export`: the order of the steps from a trained model to a proven file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import codeq_keras
from tflite_export import qat
from tflite_export.conversion.converter import convert_qat, convert_ranged
from tflite_export.conversion.exact import (
    convert_exactly,
    convert_for_sparse_kernels,
)
from tflite_export.conversion.ranged_model import (
    RangedModel,
    has_trained_ranges,
)
from tflite_export.conversion.repairs import mended_file
from tflite_export.conversion.rewrites import rewrite
from tflite_export.delivery import Proof, deliver
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.result import ExportResult
from tflite_export.runtime.interpreter import Run, quantized_inputs
from tflite_export.samples import (
    ModelInput,
    model_inputs,
    random_samples,
    sample_arrays,
)
from tflite_export.targets import require_target
from tflite_export.targets.litert_sparse import target as litert_sparse
from tflite_export.targets.litert_sparse.topology import topology_findings
from tflite_export.targets.litert_storage import require_storage_for
from tflite_export.verification.report import VerificationReport
from tflite_export.verification.verify import compare, ordered_weights
from tflite_export.weights.float_graph import write_float_codes
from tflite_export.weights.integer_graph import write_exact_weights
from tflite_export.weights.records import WrittenWeights

# Of a model whose ranges need no samples.
NUM_RANDOM_SAMPLES = 16


def export(
    model: "codeq_keras.QuantizedModel",
    path: str | os.PathLike[str],
    *,
    target: str = "litert",
    weight_storage: str = "auto",
    representative_dataset: Any = None,
) -> ExportResult:
    """Writes a quantized model as an int8 `.tflite` file and proves it.

    The integers in the file are the integers that were trained, each one:
    BatchNormalization is folded into the scale of each channel, not into the
    codes. The file is run before it is written, and a model that cannot be
    written exactly is an error. Inputs and outputs are int8 (integer inputs
    stay int32), the batch is 1.

    What the converter would spoil is rewritten in a copy to compute the same,
    and noted: recurrent layers are unrolled over the time steps of the
    samples, a Dense behind a BatchNormalization becomes a 1x1 convolution, and
    LayerNormalization and GroupNormalization do without a negation.

    Args:
        model: Trained model from `codeq_keras.quantize_model`, under the
            TensorFlow backend; or a `tf_keras` model of TensorFlow Model
            Optimization with CoDeQ, see `codeq_keras.tfmot`.
        path: The file to write, ending in `.tflite`. Its folder must exist; a
            failed export leaves an older file as it was.
        target: The device:
            - `"litert"`: phones and single-board computers;
            - `"litert-sparse"`: their ARM CPUs, in float32 with the sparse
              kernels of XNNPACK, which are faster than int8 from about 80 %
              zeros in 1x1 convolutions on; for networks such as MobileNet,
              see `check`. Inputs and outputs are float32;
            - `"tflm"`: microcontrollers; C++ source and header are written
              beside the file;
            - `"ethos-u"` (a U55 with 128 MACs), or a size such as
              `"ethos-u65-512"`: Arm's microNPU; the file that Vela compiled is
              written beside it, as `*_vela.tflite`;
            - `"edgetpu"`: Coral's Edge TPU.
        weight_storage: `"auto"` stores each weight tensor in the fewest bytes
            that the target runs at full speed, and notes why; `"int8"` stores
            all densely. `"int4"` and `"sparse"` (for `"litert"`) and `"lut"`
            (for `"tflm"`) take that form wherever it runs right.
        representative_dataset: Inputs as in training, on which the ranges of
            the activations are measured; the first 256 samples are used. A
            model with `activation_bit_width`, and a `tf_keras` model, have
            trained their ranges, and `"litert-sparse"` has none: they need no
            samples, and compare their outputs on them. Ranges inside of layers
            such as attention are not trained: they are measured if there are
            samples, and stay in float otherwise. One of
            - an array of shape `(n, ...)`;
            - for several inputs, a list of arrays in the order of
              `model.inputs`, or a dict of arrays by input name;
            - a `tf.data.Dataset` or another iterable of batches, each the
              features or a tuple `(features, labels)`;
            - a function without arguments that returns a generator of lists of
              arrays with a batch of 1 (TFLite's own convention).

    Returns:
        `ExportResult`; print it.

    Raises:
        ValueError: If an argument is wrong, or a layer's integers cannot be
            in the file; the text names the layer and what to do.
        RuntimeError: If the TFLite converter fails.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> qmodel = codeq_keras.quantize_model(model)
    >>> samples = np.random.default_rng(0).normal(size=(100, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.tflite")
    ...     result = export(qmodel, path, representative_dataset=samples)
    >>> result.verification.codes_equal
    True
    """
    require_target(target)
    require_storage_for(weight_storage, target)
    path = _checked_path(path)
    _require_tensorflow_backend()
    if qat.is_tf_keras(model):
        converted = _converted_qat(model, representative_dataset, target)
    else:
        trained = codeq_keras.quantized_weights(model)
        stripped = codeq_keras.strip_quantizers(model)
        _require_finite(stripped)
        if has_trained_ranges(model) and target != litert_sparse.TARGET:
            converted = _converted_ranged(
                model, stripped, trained, representative_dataset
            )
        else:
            converted = _converted_stripped(
                stripped, trained, representative_dataset, target
            )
        converted = converted._replace(reference=model)
    return _delivered(converted, path, target, weight_storage)


def export_stripped(
    stripped: keras.Model,
    trained: Mapping[str, "codeq_keras.QuantizedWeight"],
    path: Path,
    *,
    representative_dataset: Any,
    target: str = "litert",
    weight_storage: str = "auto",
) -> ExportResult:
    """Does the work of `export` for a model whose quantizers are off.

    Args:
        stripped: Model whose kernels are `codes * scale`.
        trained: The trained weights by path.
        path: The file to write.
        representative_dataset: As in `export`.
        target: As in `export`.
        weight_storage: As in `export`.

    Returns:
        `ExportResult`.
    """
    _require_finite(stripped)
    converted = _converted_stripped(
        stripped, trained, representative_dataset, target
    )
    return _delivered(converted, path, target, weight_storage)


class _Converted(NamedTuple):
    """A file with the trained integers, and what it is proven against.

    `model` has the file's inputs, `reference` is the one whose outputs count;
    `kernels` and `samples` are as `verify.compare` takes them.
    """

    file: Flatbuffer
    written: WrittenWeights
    trained: Mapping[str, "codeq_keras.QuantizedWeight"]
    kernels: Mapping[str, np.ndarray]
    model: Any
    reference: Any
    inputs: list[ModelInput]
    samples: list[np.ndarray]


def _converted_stripped(
    stripped: keras.Model,
    trained: Mapping[str, "codeq_keras.QuantizedWeight"],
    dataset: Any,
    target: str,
) -> _Converted:
    """With ranges measured on the samples, or in float for sparse kernels."""
    inputs = model_inputs(stripped)
    kernels = ordered_weights(stripped, trained)
    if target == litert_sparse.TARGET:
        samples = _samples(dataset, inputs)
        arrays = samples or random_samples(inputs, NUM_RANDOM_SAMPLES)
        file, notes = convert_for_sparse_kernels(stripped, inputs, arrays)
        litert_sparse.require(topology_findings(file))
        written = write_float_codes(file, trained, kernels)
        written.notes.extend(notes)
        if samples is None:
            written.notes.append(_random_note(arrays))
    else:
        _require_samples(dataset, inputs)
        arrays = sample_arrays(
            dataset, inputs, argument="representative_dataset"
        )
        file, written = convert_exactly(stripped, trained, inputs, arrays)
    return _Converted(
        file, written, trained, kernels, stripped, stripped, inputs, arrays
    )


def _converted_ranged(
    model: "codeq_keras.QuantizedModel",
    stripped: keras.Model,
    trained: Mapping[str, "codeq_keras.QuantizedWeight"],
    dataset: Any,
) -> _Converted:
    """With the ranges that the model trained."""
    inputs = model_inputs(stripped)
    kernels = ordered_weights(stripped, trained)
    samples = _samples(dataset, inputs)
    rewritten = rewrite(stripped)
    ranged = RangedModel(model, rewritten.model)
    if samples is None:
        ranged.require_ranges_for_kernels()
    file = mended_file(convert_ranged(ranged, inputs, ranged.weights, samples))
    written = write_exact_weights(file, trained, kernels)
    written.notes.extend(rewritten.notes)
    written.notes.extend(ranged.notes(has_samples=samples is not None))
    arrays = samples or _random_arrays(file, inputs, written)
    return _Converted(
        file, written, trained, kernels, stripped, stripped, inputs, arrays
    )


def _converted_qat(model: Any, dataset: Any, target: str) -> _Converted:
    """With the ranges that TFMOT trained."""
    if target == litert_sparse.TARGET:
        raise ValueError(
            f"`target={target!r}` must get a model that computes in float. "
            "Received: a model of TFMOT, whose activations are quantized. "
            "Use `target='litert'`, or train with `codeq_keras.quantize_model`."
        )
    trained, kernels = qat.weights(model)
    inputs = model_inputs(model)
    file = mended_file(convert_qat(model, inputs))
    written = write_exact_weights(file, trained, kernels)
    samples = _samples(dataset, inputs)
    arrays = samples or _random_arrays(file, inputs, written)
    return _Converted(
        file, written, trained, kernels, model, model, inputs, arrays
    )


def _delivered(
    converted: _Converted, path: Path, target: str, weight_storage: str
) -> ExportResult:
    def compared(
        data: bytes, run_on: Run | None, limit: int | None
    ) -> VerificationReport:
        return compare(
            data,
            converted.model,
            converted.trained,
            converted.inputs,
            [array[:limit] for array in converted.samples],
            kernels=converted.kernels,
            reference=converted.reference,
            run_on=run_on,
        )

    def inputs_of(file: Flatbuffer) -> dict[int, np.ndarray]:
        names = [spec.name for spec in converted.inputs]
        return quantized_inputs(file, converted.samples, names)

    return deliver(
        converted.file,
        converted.written,
        converted.trained,
        path,
        Proof(compared, inputs_of),
        target=target,
        weight_storage=weight_storage,
    )


def _samples(dataset: Any, inputs: list[ModelInput]) -> list[np.ndarray] | None:
    if dataset is None:
        return None
    return sample_arrays(dataset, inputs, argument="representative_dataset")


def _random_arrays(
    file: Flatbuffer, inputs: list[ModelInput], written: WrittenWeights
) -> list[np.ndarray]:
    """Inputs over the ranges of the file; the notes will say so."""
    arrays = qat.random_inputs(file, inputs)
    written.notes.append(_random_note(arrays))
    return arrays


def _random_note(arrays: list[np.ndarray]) -> str:
    return (
        f"The outputs were compared on {len(arrays[0])} random inputs. "
        "Give `representative_dataset` to compare on real ones."
    )


def _checked_path(path: str | os.PathLike[str]) -> Path:
    checked = Path(path)
    if checked.suffix != ".tflite":
        raise ValueError(
            f"`path` must end in '.tflite'. Received: path={str(path)!r}."
        )
    if not checked.parent.is_dir():
        raise ValueError(
            f"`path` must be in an existing folder. Received: "
            f"path={str(path)!r}. Create {str(checked.parent)!r} first."
        )
    return checked


def _require_tensorflow_backend() -> None:
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            "The export needs Keras on the TensorFlow backend. "
            f"Received: {backend!r}. Save the model with `model.save("
            '"model.keras")` and load and export it in a process started with '
            "KERAS_BACKEND=tensorflow."
        )


def _require_samples(dataset: Any, inputs: list[ModelInput]) -> None:
    if dataset is None:
        shapes = [("n", *spec.shape) for spec in inputs]
        raise ValueError(
            "`representative_dataset` must hold inputs as in training: the "
            "ranges of the activations are measured on them. Received: None. "
            f"Pass about 100 samples, for instance {_shapes_text(shapes)}."
        )


def _require_finite(stripped: keras.Model) -> None:
    for variable in stripped.weights:
        values = np.asarray(variable)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            layer = variable.path.rpartition("/")[0]
            raise ValueError(
                "All weights must be finite. Received: NaN or infinity in "
                f"{variable.path!r}. Training diverged in layer {layer!r}: "
                "lower the learning rate or load an earlier checkpoint."
            )


def _shapes_text(shapes: list[tuple[Any, ...]]) -> str:
    texts = [
        "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
        for shape in shapes
    ]
    if len(texts) == 1:
        return f"an array of shape {texts[0]}"
    return f"a list of arrays of shapes {', '.join(texts)}"
