"""`export`: the steps from a trained model to a proven file."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from tflite_export.files import write_atomically
from tflite_export.format.borders import Borders
from tflite_export.format.names import shorten_names
from tflite_export.measuring.export_page import export_blocks
from tflite_export.measuring.sizes import measure_sizes
from tflite_export.tables import as_text, entropy_text
from tflite_export.targets.target import (
    DeviceReport,
    ProvenFile,
    find_target,
)
from tflite_export.trained_model import (
    NUM_RANDOM_SAMPLES,
    TrainedModel,
    read_model,
)
from tflite_export.verification.report import VerificationReport
from tflite_export.verification.verify import prove
from tflite_export.weights.metadata import write_record

if TYPE_CHECKING:
    import codeq_keras

# As of `store_weights`, or of a path of the model.
_WEIGHT_NOTE = re.compile(r"(?P<name>'[^']+'|\S+ \([\dx]+\))(?P<text>: .*)")
_NUM_NAMES = 3
_RANDOM_NOTE = (
    f"The outputs were compared on {NUM_RANDOM_SAMPLES} random inputs. Give "
    "`representative_dataset` to compare on real ones."
)
# Those that `export` and `export_trained` begin.
_NUM_STEPS = 5


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """The result of `export`; `str()` is a short summary.

    Attributes:
        path: The file.
        size_bytes: Its size.
        verification: The comparison of the file with the model.
        notes: Notes on weights that were not trained, operators in float,
            estimated scales, and the storage of weights.
        gzip_size_bytes: Size after gzip, as for an update over the air.
        zstd_size_bytes: Size after zstd.
        weight_bytes: Stored bytes of the weights alone; None if unknown.
        entropy_bytes: Bytes that an ideal entropy coder would need for them;
            None if unknown.
        other_files: Further files: the compiled file of an Ethos-U, the C++
            source or the project for a microcontroller.
        device: The measurements of the target's tool; None if it has none.
        bytes_by_kind: Bytes of the file by kind, see `inspect`; their sum is
            `size_bytes`.

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
    weight_bytes: int | None = None
    entropy_bytes: float | None = None
    other_files: tuple[Path, ...] = ()
    device: DeviceReport | None = None
    bytes_by_kind: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """Returns a summary of a few lines."""
        return as_text(self.parts())

    def parts(self) -> list[str]:
        """Returns the lines of the summary."""
        sizes = f"{self.path}: {self.size_bytes:,} bytes"
        if self.gzip_size_bytes is not None:
            sizes += f", {self.gzip_size_bytes:,} with gzip"
        if self.zstd_size_bytes is not None:
            sizes += f", {self.zstd_size_bytes:,} with zstd"
        if self.weight_bytes is not None and self.entropy_bytes is not None:
            bound = entropy_text(self.weight_bytes, self.entropy_bytes)
            sizes += f"; weights: {bound}"
        device = [] if self.device is None else [str(self.device)]
        kinds = [f"{kind} {n:,}" for kind, n in self.bytes_by_kind.items()]
        bytes_line = [f"bytes: {', '.join(kinds)}"] if kinds else []
        others = [f"also written: {text}" for text in self.other_names()]
        notes = [f"note: {note}" for note in self.grouped_notes()]
        proof = self.verification.parts()
        return [sizes, *bytes_line, *proof, *device, *others, *notes]

    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        report: "codeq_keras.CompressionReport | None" = None,
        history: Any = None,
    ) -> None:
        """Writes the result as one HTML file; an old one is replaced.

        Args:
            path: File to write; it ends in ".html".
            report: `codeq_keras.report` of the model, to have the kernels on
                the same page.
            history: With it, what `fit` returned; see its `to_html`.

        Raises:
            ImportError: If jinja2 is not installed.
            ValueError: If `path` does not end in ".html", or its folder does
                not exist.
        """
        from codeq_keras.reports import report_blocks, write_page

        blocks = export_blocks(self)
        if report is not None:
            blocks += report_blocks(report, history)
        write_page(path, title=self.path.name, summary=[], blocks=blocks)

    def grouped_notes(self) -> list[str]:
        """Returns the notes; those that differ in their weight alone as one."""
        return grouped_notes(self.notes)

    def other_names(self) -> list[str]:
        """Returns the names of the other files, those of a project as one."""
        parent = self.path.parent
        beside = [path for path in self.other_files if path.parent == parent]
        texts = [str(path) for path in beside]
        if count := len(self.other_files) - len(beside):
            texts.append(f"{self.path.with_suffix('')}/, {count} files")
        return texts

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "gzip_size_bytes": self.gzip_size_bytes,
            "zstd_size_bytes": self.zstd_size_bytes,
            "weight_bytes": self.weight_bytes,
            "entropy_bytes": self.entropy_bytes,
            "bytes_by_kind": dict(self.bytes_by_kind),
            "verification": self.verification.to_dict(),
            "other_files": [str(path) for path in self.other_files],
            "device": None if self.device is None else self.device.to_dict(),
            "notes": list(self.notes),
        }


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
            - `"litert"`: phones and single-board computers;
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
    write_record(file, target, trained.origin, silent_channels)
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


def grouped_notes(notes: Sequence[str]) -> list[str]:
    """Returns notes that only differ in their weight as one, with a count.

    Example:

    >>> grouped_notes(["a (2x3): int8; why.", "A note.", "b (4x5): int8; why."])
    ['2 weights (a (2x3), b (4x5)): int8; why.', 'A note.']
    """
    names: dict[str, list[str]] = {}
    for note in notes:
        match = _WEIGHT_NOTE.fullmatch(note)
        names.setdefault(match["text"] if match else note, []).append(
            match["name"] if match else ""
        )
    grouped = []
    for text, held in names.items():
        shown = ", ".join(held[:_NUM_NAMES])
        if len(held) > _NUM_NAMES:
            shown += f" and {len(held) - _NUM_NAMES} more"
        if len(held) > 1 and held[0]:
            shown = f"{len(held)} weights ({shown})"
        grouped.append(shown + text)
    return grouped


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
