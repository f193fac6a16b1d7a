"""`export`: the order of the steps from a trained model to a proven file."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

import codeq_keras
from tflite_export import qat
from tflite_export.convert import convert_qat, convert_ranged
from tflite_export.delivery import ExportResult, Proof, deliver
from tflite_export.exact_conversion import (
    convert_exactly,
    convert_for_sparse_kernels,
)
from tflite_export.exact_weights import TrainedWeight, write_exact_weights
from tflite_export.flatbuffer import Flatbuffer
from tflite_export.float_codes import write_float_codes
from tflite_export.interpreter import quantized_inputs
from tflite_export.ranges import RangedModel, has_trained_ranges
from tflite_export.representative import (
    ModelInput,
    model_inputs,
    random_samples,
    sample_arrays,
)
from tflite_export.sparse_inference import topology_findings
from tflite_export.storage import require_storage_for
from tflite_export.targets import litert_sparse, require_target
from tflite_export.verify import compare, ordered_weights

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
        return _export_qat(
            model,
            path,
            samples=representative_dataset,
            target=target,
            weight_storage=weight_storage,
        )
    trained = codeq_keras.quantized_weights(model)
    stripped = codeq_keras.strip_quantizers(model)
    if has_trained_ranges(model) and target != litert_sparse.TARGET:
        return _export_ranged(
            model,
            stripped,
            trained,
            path,
            samples=representative_dataset,
            target=target,
            weight_storage=weight_storage,
        )
    return export_stripped(
        stripped,
        trained,
        path,
        representative_dataset=representative_dataset,
        reference=model,
        target=target,
        weight_storage=weight_storage,
    )


def export_stripped(
    stripped: keras.Model,
    trained: Mapping[str, TrainedWeight],
    path: Path,
    *,
    representative_dataset: Any,
    reference: keras.Model | None = None,
    target: str = "litert",
    weight_storage: str = "auto",
) -> ExportResult:
    """Does the work of `export` for a model whose quantizers are off.

    Args:
        stripped: Model whose kernels are `codes * scale`.
        trained: The trained weights by path.
        path: The file to write.
        representative_dataset: As in `export`.
        reference: Model whose outputs count; None for `stripped`.
        target: As in `export`.
        weight_storage: As in `export`.

    Returns:
        `ExportResult`.
    """
    inputs = model_inputs(stripped)
    is_float = target == litert_sparse.TARGET
    if representative_dataset is None and not is_float:
        shapes = [("n", *spec.shape) for spec in inputs]
        raise ValueError(
            "`representative_dataset` must hold inputs as in training: the "
            "ranges of the activations are measured on them. Received: None. "
            f"Pass about 100 samples, for instance {_shapes_text(shapes)}."
        )
    _require_finite(stripped)
    samples = (
        random_samples(inputs, NUM_RANDOM_SAMPLES)
        if representative_dataset is None
        else sample_arrays(
            representative_dataset, inputs, argument="representative_dataset"
        )
    )
    if is_float:
        file, notes = convert_for_sparse_kernels(stripped, inputs, samples)
        litert_sparse.require(topology_findings(file))
        kernels = ordered_weights(stripped, trained)
        written = write_float_codes(file, trained, kernels)
        written.notes.extend(notes)
        if representative_dataset is None:
            written.notes.append(_random_note(samples))
    else:
        file, written = convert_exactly(stripped, trained, inputs, samples)
    proof = Proof(
        lambda data, run_on, limit: compare(
            data,
            stripped,
            trained,
            inputs,
            [array[:limit] for array in samples],
            reference=reference,
            run_on=run_on,
        ),
        _run_inputs(inputs, samples),
    )
    return deliver(
        file,
        written,
        trained,
        path,
        proof,
        target=target,
        weight_storage=weight_storage,
    )


def _export_ranged(
    model: "codeq_keras.QuantizedModel",
    stripped: keras.Model,
    trained: Mapping[str, TrainedWeight],
    path: Path,
    *,
    samples: Any,
    target: str,
    weight_storage: str,
) -> ExportResult:
    """Does the work of `export` for a model that trained its ranges."""
    _require_finite(stripped)
    inputs = model_inputs(stripped)
    arrays = None
    if samples is not None:
        arrays = sample_arrays(
            samples, inputs, argument="representative_dataset"
        )
    ranged = RangedModel(model, stripped)
    if arrays is None:
        ranged.require_ranges_for_kernels()
    file = Flatbuffer(convert_ranged(ranged, inputs, ranged.weights, arrays))
    written = write_exact_weights(
        file, trained, ordered_weights(stripped, trained)
    )
    written.notes.extend(ranged.notes(has_samples=arrays is not None))
    if arrays is None:
        arrays = qat.random_inputs(file, inputs)
        written.notes.append(_random_note(arrays))
    proof = Proof(
        lambda data, run_on, limit: compare(
            data,
            stripped,
            trained,
            inputs,
            [array[:limit] for array in arrays],
            reference=model,
            run_on=run_on,
        ),
        _run_inputs(inputs, arrays),
    )
    return deliver(
        file,
        written,
        trained,
        path,
        proof,
        target=target,
        weight_storage=weight_storage,
    )


def _random_note(arrays: list[np.ndarray]) -> str:
    return (
        f"The outputs were compared on {len(arrays[0])} random inputs. "
        "Give `representative_dataset` to compare on real ones."
    )


def _export_qat(
    model: Any, path: Path, *, samples: Any, target: str, weight_storage: str
) -> ExportResult:
    """Does the work of `export` for a model of TFMOT."""
    if target == litert_sparse.TARGET:
        raise ValueError(
            f"`target={target!r}` must get a model that computes in float. "
            "Received: a model of TFMOT, whose activations are quantized. "
            "Use `target='litert'`, or train with `codeq_keras.quantize_model`."
        )
    trained, kernels = qat.weights(model)
    inputs = model_inputs(model)
    file = Flatbuffer(convert_qat(model, inputs))
    written = write_exact_weights(file, trained, kernels)
    if samples is None:
        arrays = qat.random_inputs(file, inputs)
        written.notes.append(_random_note(arrays))
    else:
        arrays = sample_arrays(
            samples, inputs, argument="representative_dataset"
        )
    proof = Proof(
        lambda data, run_on, limit: compare(
            data,
            model,
            trained,
            inputs,
            [array[:limit] for array in arrays],
            kernels=kernels,
            run_on=run_on,
        ),
        _run_inputs(inputs, arrays),
    )
    return deliver(
        file,
        written,
        trained,
        path,
        proof,
        target=target,
        weight_storage=weight_storage,
    )


def _run_inputs(
    inputs: list[ModelInput], samples: list[np.ndarray]
) -> Callable[[Flatbuffer], dict[int, np.ndarray]]:
    names = [spec.name for spec in inputs]
    return lambda file: quantized_inputs(file, samples, names)


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
