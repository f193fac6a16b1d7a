"""`export`: the order of the steps from a trained model to a proven file."""

import dataclasses
import gzip
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

import codeq_keras
from tflite_export import qat
from tflite_export.convert import convert, convert_qat
from tflite_export.exact_weights import (
    TrainedWeight,
    WrittenWeights,
    write_exact_weights,
)
from tflite_export.flatbuffer import Flatbuffer
from tflite_export.representative import model_inputs, sample_arrays
from tflite_export.targets import require_target
from tflite_export.verify import (
    METADATA_NAME,
    VerificationReport,
    compare,
    ordered_weights,
)
from tflite_export.weight_sites import float_operators

# Of what the sizes in the summary are; higher levels take a minute on 30 MB.
GZIP_LEVEL = 6
ZSTD_LEVEL = 9


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What `export` wrote; `str()` is a short summary.

    Attributes:
        path: The file.
        size_bytes: Its size.
        verification: The comparison of the file with the model.
        notes: What is worth knowing: weights that were not trained, operators
            in float, scales that had to be estimated.
        gzip_size_bytes: Size after gzip, as an update over the air has it.
        zstd_size_bytes: Size after zstd; None without `zstandard`.

    Example:

    >>> report = VerificationReport(True, 2, (), (), 4)
    >>> print(ExportResult(Path("model.tflite"), 2048, report, ("a note",)))
    model.tflite: 2,048 bytes
    trained integers in the file: 2 of 2 tensors equal
    note: a note
    """

    path: Path
    size_bytes: int
    verification: VerificationReport
    notes: tuple[str, ...]
    gzip_size_bytes: int | None = None
    zstd_size_bytes: int | None = None

    def __str__(self) -> str:
        """Returns a summary of a few lines."""
        sizes = f"{self.path}: {self.size_bytes:,} bytes"
        if self.gzip_size_bytes is not None:
            sizes += f", {self.gzip_size_bytes:,} with gzip"
        if self.zstd_size_bytes is not None:
            sizes += f", {self.zstd_size_bytes:,} with zstd"
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([sizes, str(self.verification), *notes])


def export(
    model: "codeq_keras.QuantizedModel",
    path: str | os.PathLike[str],
    *,
    target: str = "litert",
    representative_dataset: Any = None,
) -> ExportResult:
    """Writes a quantized model as an int8 `.tflite` file and proves it.

    The integers in the file are the integers that were trained, each one:
    BatchNormalization is folded into the scale of each channel, not into the
    codes. The file is run before it is written, and a model that cannot be
    written exactly is an error. Inputs and outputs are int8 (integer inputs
    stay int32), the batch is 1.

    Args:
        model: Trained model from `codeq_keras.quantize_model`, under the
            TensorFlow backend; or a `tf_keras` model of TensorFlow Model
            Optimization with CoDeQ, see `codeq_keras.tfmot`.
        path: The file to write, ending in `.tflite`. Its folder must exist; a
            failed export leaves an older file as it was.
        target: The device: `"litert"`.
        representative_dataset: Inputs as in training, on which the ranges of
            the activations are measured; the first 256 samples are used. A
            `tf_keras` model has trained its ranges: it needs none, and
            compares its outputs on them. One of
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
    path = _checked_path(path)
    _require_tensorflow_backend()
    if qat.is_tf_keras(model):
        return _export_qat(model, path, samples=representative_dataset)
    trained = codeq_keras.quantized_weights(model)
    stripped = codeq_keras.strip_quantizers(model)
    return export_stripped(
        stripped,
        trained,
        path,
        representative_dataset=representative_dataset,
        reference=model,
    )


def export_stripped(
    stripped: keras.Model,
    trained: Mapping[str, TrainedWeight],
    path: Path,
    *,
    representative_dataset: Any,
    reference: keras.Model | None = None,
) -> ExportResult:
    """Does the work of `export` for a model whose quantizers are off.

    Args:
        stripped: Model whose kernels are `codes * scale`.
        trained: The trained weights by path.
        path: The file to write.
        representative_dataset: As in `export`.
        reference: Model whose outputs count; None for `stripped`.

    Returns:
        `ExportResult`.
    """
    inputs = model_inputs(stripped)
    if representative_dataset is None:
        shapes = [("n", *spec.shape) for spec in inputs]
        raise ValueError(
            "`representative_dataset` must hold inputs as in training: the "
            "ranges of the activations are measured on them. Received: None. "
            f"Pass about 100 samples, for instance {_shapes_text(shapes)}."
        )
    _require_finite(stripped)
    samples = sample_arrays(
        representative_dataset, inputs, argument="representative_dataset"
    )
    file = Flatbuffer(convert(stripped, inputs, samples))
    written = write_exact_weights(
        file, trained, ordered_weights(stripped, trained)
    )
    return _prove_and_write(
        file,
        written,
        trained,
        path,
        lambda data: compare(
            data, stripped, trained, inputs, samples, reference=reference
        ),
    )


def _export_qat(model: Any, path: Path, *, samples: Any) -> ExportResult:
    """Does the work of `export` for a model of TFMOT."""
    trained, kernels = qat.weights(model)
    inputs = model_inputs(model)
    file = Flatbuffer(convert_qat(model, inputs))
    written = write_exact_weights(file, trained, kernels)
    if samples is None:
        arrays = qat.random_inputs(file, inputs)
        written.notes.append(
            f"The outputs were compared on {len(arrays[0])} random inputs. "
            "Give `representative_dataset` to compare on real ones."
        )
    else:
        arrays = sample_arrays(
            samples, inputs, argument="representative_dataset"
        )
    return _prove_and_write(
        file,
        written,
        trained,
        path,
        lambda data: compare(
            data, model, trained, inputs, arrays, kernels=kernels
        ),
    )


def _prove_and_write(
    file: Flatbuffer,
    written: WrittenWeights,
    trained: Mapping[str, TrainedWeight],
    path: Path,
    compare_file: Callable[[bytes], VerificationReport],
) -> ExportResult:
    record = _record(trained, written.silent_channels)
    file.set_metadata(METADATA_NAME, json.dumps(record).encode())
    data = file.to_bytes()
    report = compare_file(data)
    if not report.codes_equal:
        raise RuntimeError(
            "Expected the trained integers in the file. Received: others in "
            f"{list(report.unequal)}; the file was not written. This is a "
            "fault of the exporter: please report the model."
        )
    _write_atomically(path, data)
    notes = [
        *written.notes,
        *(
            f"{name} computes in float32 (operators: {count})."
            for name, count in float_operators(file).items()
        ),
    ]
    return ExportResult(
        path=path,
        size_bytes=len(data),
        verification=report,
        notes=tuple(notes),
        gzip_size_bytes=len(gzip.compress(data, GZIP_LEVEL, mtime=0)),
        zstd_size_bytes=_zstd_size(data),
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


def _zstd_size(data: bytes) -> int | None:
    if importlib.util.find_spec("zstandard") is None:
        return None
    import zstandard

    return len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data))


def _write_atomically(path: Path, data: bytes) -> None:
    """A reader finds the old file or the new one, never a part of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
