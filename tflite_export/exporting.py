"""`export`: the steps from a trained model to a proven file."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from tflite_export.files import write_atomically
from tflite_export.format.borders import Borders
from tflite_export.format.names import shorten_names
from tflite_export.measuring.export_result import ExportResult
from tflite_export.measuring.sizes import measure_sizes
from tflite_export.targets.target import ProvenFile, find_target
from tflite_export.trained_model import (
    NUM_RANDOM_SAMPLES,
    TrainedModel,
    read_model,
)
from tflite_export.verification.verify import prove
from tflite_export.weights.metadata import write_record

if TYPE_CHECKING:
    import codeq_keras

_RANDOM_NOTE = (
    f"The outputs were compared on {NUM_RANDOM_SAMPLES} random inputs. Give "
    "`representative_dataset` to compare on real ones."
)
# Those that `export` and `export_trained` begin.
_NUM_STEPS = 5


def export(
    model: "codeq_keras.QuantizedModel",
    path: str | os.PathLike[str],
    *,
    target: str = "litert",
    weight_storage: str = "auto",
    io_dtype: str | None = None,
    project: str | None = None,
    representative_dataset: Any = None,
    verbose: int = 1,
) -> ExportResult:
    """Writes a quantized model as an int8 `.tflite` file and proves it.

    Each code in the file is the trained code: BatchNormalization is folded into
    the scale of each channel, not into the codes. The file is run before it is
    written, and a model that cannot be written exactly is an error. Inputs and
    outputs are int8 unless `io_dtype` says otherwise (integer inputs stay
    int32), the batch is 1.

    Some layers are rewritten in a copy that computes the same, with a note,
    since the converter would spoil them. Recurrent layers are unrolled over the
    time steps of the samples. A Dense after a BatchNormalization becomes a 1x1
    convolution. LayerNormalization and GroupNormalization lose a negation.

    Args:
        model: Trained model from `codeq_keras.quantize_model`, under the
            TensorFlow backend; or a `tf_keras` model of TensorFlow Model
            Optimization with CoDeQ, see `codeq_keras.tfmot`.
        path: The file to write, ending in `.tflite`. Its folder must exist; a
            failed export leaves an older file as it was.
        target: The device:
            - `"litert"`: phones and single-board computers. `"auto"` stores
              weights for their CPU; `"litert,accelerator=gpu"`, or `npu`, is
              for apps that ask for those;
            - `"litert-sparse"`: their ARM CPUs, in float32 with the sparse
              kernels of XNNPACK, for networks such as MobileNet (see `check`).
              These are faster than int8 from about 80 % zeros in 1x1
              convolutions on. Inputs and outputs are float32;
            - `"tflm"`: microcontrollers; C++ source and header are written
              beside the file. `"tflm,max_arena_bytes=32000"` packs weights
              only as far as the arena has room to unpack them;
            - `"ethos-u"` (a U55 with 128 MACs), or a size such as
              `"ethos-u65-512"`: Arm's microNPU; the compiled file of Vela is
              written beside it, as `*_vela.tflite`;
            - `"edgetpu"`: Coral's Edge TPU.
        weight_storage: `"auto"` stores each weight tensor in the fewest bytes
            that the target runs at full speed, and notes why; for `"tflm"` in
            the fewest bytes, at the work of unpacking that the report states.
            `"int8"` stores all densely. `"int4"` and `"sparse"` (for
            `"litert"`) and `"huffman"` (for `"tflm"`) take that form wherever
            it runs right, `"lut"` (for `"tflm"`) wherever it is smaller.
        io_dtype: The type of inputs and outputs that are real numbers, for
            `"litert"`: `"int8"`, the default; `"uint8"`, whose codes are those
            of int8 plus 128, so an image of scale 1/255 goes in as it is; or
            `"float32"`, which the file rounds itself.
        project: For `"tflm"`, a folder named as the file, beside it, in place
            of the C++ source: the model, its operators, arena and scales, test
            vectors with the outputs of the proof, a program that runs them and
            a README. `"cmake"` builds on a host and for Cortex-M, `"zephyr"`
            and `"esp-idf"` in those systems. A folder that is not such a
            project, or whose files you changed, is refused.
        representative_dataset: Inputs as in training, to measure the ranges of
            the activations; the first 256 samples are used. They are optional
            if the ranges are trained (`activation_bit_width`, or `tf_keras`),
            and for `"litert-sparse"`, which has none: outputs are compared on
            them. Ranges inside of layers such as attention are never trained;
            without samples such operators stay in float. One of
            - an array of shape `(n, ...)`;
            - for several inputs, a list of arrays in the order of
              `model.inputs`, or a dict of arrays by input name;
            - a `tf.data.Dataset` or another iterable of batches, each the
              features or a tuple `(features, labels)`;
            - a function without arguments that returns a generator of lists of
              arrays with a batch of 1 (TFLite's own convention).
        verbose: 1 shows a progress bar, on stderr and only where that is a
            terminal or a notebook: a log gets no line. 0 shows nothing.

    Returns:
        `ExportResult`; print it.

    Raises:
        ValueError: If an argument is wrong, or the file cannot hold a layer's
            codes; the text names the layer and the remedy.
        RuntimeError: If the TFLite converter fails.

    Example:

    >>> import tempfile
    >>> import codeq_keras, keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> qmodel = codeq_keras.quantize_model(model)
    >>> samples = np.random.default_rng(0).normal(size=(100, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.tflite")
    ...     result = export(qmodel, path, representative_dataset=samples)
    >>> result.verification.codes_equal
    True
    """
    with _steps(verbose) as begin:
        path = checked_path(path)
        device = find_target(target)
        device.require_storage(weight_storage)
        io_dtype = device.require_io_dtype(io_dtype)
        device.require_project(project, path)
        begin("Reading the model")
        trained = read_model(model, representative_dataset)
        return export_trained(
            trained,
            path,
            target=target,
            weight_storage=weight_storage,
            io_dtype=io_dtype,
            project=project,
            begin=begin,
        )


def export_trained(
    trained: TrainedModel,
    path: Path,
    *,
    target: str = "litert",
    weight_storage: str = "auto",
    io_dtype: str = "int8",
    project: str | None = None,
    begin: Callable[[str], None] = lambda step: None,
) -> ExportResult:
    """Writes and proves a model that was read; see `export`.

    `begin` is told each step, for a progress bar.
    """
    device = find_target(target)
    begin("Converting, and writing the codes")
    file, notes, silent_channels = device.convert(trained)
    notes = [*trained.removed, *notes, *trained.open_size_notes(file)]
    notes += trained.pattern_notes(device.title, device.skips_pattern)
    if trained.samples is None:
        trained = trained.with_random_samples(file)
        notes.append(_RANDOM_NOTE)
    begin("Storing the weights")
    shorten_names(file, keeps_all=device.reads_names)
    notes += Borders(file).convert(io_dtype)
    dense = file.to_bytes()
    notes += device.store(file, weight_storage)
    is_dense = file.to_bytes() == dense
    write_record(file, device.name, trained.origin, silent_channels)
    data = file.to_bytes()
    # Where no weight was stored otherwise, the file is its own dense form.
    dense = data if is_dense else dense
    begin("Running the file, and comparing")
    proof = prove(data, trained)
    proven = ProvenFile(path.stem, file, data, dense, proof, project)
    begin(f"Packaging for {device.title}")
    package = device.package(proven, trained)
    others = {path.parent / n: d for n, d in package.others.items()}
    write_atomically({path: package.data, **others}, below=path.parent)
    sizes = measure_sizes(package.data)
    return ExportResult(
        path=path,
        size_bytes=sizes.file_bytes,
        verification=proof,
        notes=(*notes, *package.notes),
        gzip_size_bytes=sizes.gzip_bytes,
        zstd_size_bytes=sizes.zstd_bytes,
        weight_bytes=sizes.weight_bytes,
        entropy_bytes=round(sizes.entropy_bytes, 1),
        other_files=tuple(others),
        device=package.device,
        bytes_by_kind=sizes.bytes_by_kind,
    )


@contextmanager
def _steps(verbose: int) -> Iterator[Callable[[str], None]]:
    """A bar that is told each step of `export`, and is gone at its end."""
    if verbose not in (0, 1):
        raise ValueError(
            "`verbose` must be 1 for a progress bar, or 0. Received: "
            f"verbose={verbose!r}."
        )
    console = Console(stderr=True)
    is_seen = verbose and (console.is_terminal or console.is_jupyter)
    with Progress(console=console, transient=True, disable=not is_seen) as bar:
        task = bar.add_task("", total=_NUM_STEPS)

        def begin(step: str) -> None:
            is_first = not bar.tasks[0].description
            bar.update(task, description=step, advance=0 if is_first else 1)

        yield begin


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Returns the path of a `.tflite` file that can be written."""
    is_path = isinstance(path, str | os.PathLike)
    if not is_path or Path(path).suffix != ".tflite":
        received = str(path) if is_path else path
        raise ValueError(
            f"`path` must end in '.tflite'. Received: path={received!r}."
        )
    checked = Path(path)
    if checked.is_dir():
        raise ValueError(
            "`path` must be the name of a file. Received: "
            f"path={str(path)!r}, a folder. Name a file in it."
        )
    if not checked.parent.is_dir():
        raise ValueError(
            f"`path` must be in an existing folder. Received: "
            f"path={str(path)!r}. Create {str(checked.parent)!r} first."
        )
    return checked
