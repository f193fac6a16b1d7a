"""Target: a device that files are made for, and the registry of targets."""

import dataclasses
import difflib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tflite_export import arm
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.targets.findings import (
    CheckReport,
    Finding,
    operator_counts,
    storage_findings,
)
from tflite_export.targets.settings import TargetName
from tflite_export.weights.sites import weight_sites

if TYPE_CHECKING:
    from tflite_export.conversion.exact import ConvertedModel
    from tflite_export.trained_model import TrainedModel
    from tflite_export.verification.report import VerificationReport

# The refusal of every target except microcontrollers.
PACKED_REFUSALS: Mapping[str, str] = {
    name: f"Only LiteRT for Microcontrollers reads {form}. Use "
    "`target='tflm'`, or 'auto'."
    for name, form in (("lut", "look-up tables"), ("huffman", "Huffman codes"))
}
# The devices that measure files for phones.
PHONE_DEVICES = ("host", *arm.CPUS, "android")


class DeviceReport(Protocol):
    """The measurements of a target's own tool; `str()` is one line."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers, for tables and JSON."""


@dataclasses.dataclass(frozen=True)
class ProvenFile:
    """A file with proven codes, for `Target.package`.

    Attributes:
        name: Its name without folder and suffix.
        file: The file as it will be written.
        data: Its bytes.
        dense: The bytes before `Target.store`, without a record.
        verification: The proof.
        project: As in `export`.
    """

    name: str
    file: Flatbuffer
    data: bytes
    dense: bytes
    verification: "VerificationReport"
    project: str | None = None


class Package(NamedTuple):
    """The contents of all files that an export writes.

    `data` is the `.tflite` file, `others` are further files by name, which may
    have a new folder in front; `device` is the report of the target's own tool,
    `notes` are for the user.
    """

    data: bytes
    others: Mapping[str, bytes] = {}
    device: DeviceReport | None = None
    notes: tuple[str, ...] = ()


class Target:
    """A device that files are made for. The defaults are those of plain int8.

    A new target is a subclass that overrides the differences, and one call of
    `register_target`. `export` calls `require_storage`, `convert`, `store` and
    `package`, in this order; `check` calls `check`, or `check_untrained` for a
    model.

    Attributes:
        name: The name that `export(target=)` takes.
        title: The name in texts, as in "weights for the Edge TPU".
        storages: The values of `weight_storage` that it takes.
        refused_storages: The reason against each other value, and the remedy.
        io_dtypes: The values of `io_dtype` that it takes, its own first.
        devices: Names of the devices on which `benchmark` measures its files.
        projects: The values of `project` that it takes, besides None.
        is_variant: Whether it is a size of another target.
        skips_pattern: Whether `sparsity_pattern="2:4"` makes files faster.
        weighs_codes: Whether codes change the bytes of a file, but not its
            operators.
        reads_names: Whether its tools name tensors in their messages.
        settings: What can be set of the device, as in
            `target="tflm,max_arena_bytes=32000"`: each name, and what it is.

    Example:

    >>> class Npu(Target):
    ...     name, title = "npu", "the NPU"
    ...
    ...     def findings(self, file):
    ...         return [
    ...             Finding(o.name, "does not run there.", "Upsample instead.")
    ...             for o in file.operators
    ...             if o.name == "TRANSPOSE_CONV"
    ...         ]
    >>> Npu().require_storage("int4")
    Traceback (most recent call last):
    ...
    ValueError: `weight_storage` for the target 'npu' must be 'auto' or \
'int8'. Received: 'int4'. The NPU runs dense int8 weights only.
    """

    name: str = ""
    title: str = ""
    storages: tuple[str, ...] = ("auto", "int8")
    refused_storages: Mapping[str, str] = PACKED_REFUSALS
    io_dtypes: tuple[str, ...] = ("int8",)
    devices: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    is_variant: bool = False
    skips_pattern: bool = False
    weighs_codes: bool = True
    reads_names: bool = True
    settings: Mapping[str, str] = {}

    def configured(self, settings: Mapping[str, str]) -> "Target":
        """Returns a copy with settings.

        Args:
            settings: Values by name; the names are among those of `settings`.

        Raises:
            ValueError: If a value is wrong.
        """
        raise NotImplementedError

    def require_storage(self, weight_storage: str) -> None:
        """Raises a ValueError for a storage that the target does not take.

        Args:
            weight_storage: As in `export`.
        """
        if weight_storage in self.storages:
            return
        known = weight_storages()
        if weight_storage not in known:
            raise ValueError(
                f"`weight_storage` must be one of {known}. Received: "
                f"{weight_storage!r}."
            )
        *most, last = map(repr, self.storages)
        allowed = f"{', '.join(most)} or {last}" if most else last
        subject = f"{self.title[:1].upper()}{self.title[1:]}"
        reason = self.refused_storages.get(
            weight_storage, f"{subject} runs dense int8 weights only."
        )
        raise ValueError(
            f"`weight_storage` for the target {self.name!r} must be {allowed}. "
            f"Received: {weight_storage!r}. {reason}"
        )

    def require_io_dtype(self, io_dtype: str | None) -> str:
        """Returns the type of inputs and outputs; a wrong one is a ValueError.

        Args:
            io_dtype: As in `export`.
        """
        if io_dtype is None:
            return self.io_dtypes[0]
        if io_dtype in self.io_dtypes:
            return io_dtype
        others = [
            t.name for t in _REGISTERED.values() if io_dtype in t.io_dtypes
        ]
        remedy = f"Use {self.io_dtypes[0]!r}, or leave it out."
        if others:
            remedy = f"Use `target={others[0]!r}`, or leave it out."
        raise ValueError(
            f"`io_dtype` for the target {self.name!r} must be one of "
            f"{list(self.io_dtypes)}. Received: {io_dtype!r}. {remedy}"
        )

    def require_project(self, project: str | None, path: Path) -> None:
        """Raises a ValueError for a project that the target does not write.

        Args:
            project: As in `export`.
            path: The `.tflite` file; the folder of a project is beside it.
        """
        if project is None or project in self.projects:
            return
        remedy = "Export without one."
        others = [t.name for t in _REGISTERED.values() if t.projects]
        if others and not self.projects:
            remedy = f"Use `target={others[0]!r}`, or export without one."
        raise ValueError(
            f"`project` for the target {self.name!r} must be one of "
            f"{[None, *self.projects]}. Received: {project!r}. {remedy}"
        )

    def convert(self, trained: "TrainedModel") -> "ConvertedModel":
        """Converts a model to a file with the trained codes.

        Args:
            trained: The model.

        Raises:
            ValueError: If a trained weight cannot be in the file.
            RuntimeError: If the converter fails.
        """
        # Imported here: checking a file must not import Keras.
        from tflite_export.conversion.exact import convert_exactly

        return convert_exactly(trained)

    def store(self, file: Flatbuffer, weight_storage: str) -> list[str]:
        """Stores the weights as the device reads them, in place.

        Args:
            file: A file with dense weights.
            weight_storage: As in `export`.

        Returns:
            Notes for the user.
        """
        return []

    def deployed(self, data: bytes) -> bytes:
        """Returns the file that the device holds.

        Args:
            data: The bytes of a file, stored as the device reads it.
        """
        return data

    def weight_bytes(self, file: Flatbuffer) -> list[float]:
        """Returns those of each weight, in the order of `weight_sites`.

        Args:
            file: The same file.
        """
        sites = weight_sites(file)
        readers = Counter(site.key for site in sites)
        return [s.tensor.size_bytes / readers[s.key] for s in sites]

    def package(self, proven: ProvenFile, trained: "TrainedModel") -> Package:
        """Returns the contents of all files to write.

        Args:
            proven: The file.
            trained: The model, to compare other forms of the file with it.

        Returns:
            The `Package`; by default the file alone, with a note a finding.

        Raises:
            ValueError: If the device cannot run the file.
        """
        report = self.check(proven.data)
        blocking = [f for f in report.findings if f.is_blocking]
        if blocking:
            raise ValueError(
                f"All operators must run on {self.title}. Received:\n"
                + "\n".join(f"- {finding}" for finding in blocking)
            )
        return Package(proven.data, notes=tuple(map(str, report.findings)))

    def check(self, data: bytes) -> CheckReport:
        """Says where the operators of a file run, and what blocks it.

        Args:
            data: The bytes of a `.tflite` file, of any origin.
        """
        file = Flatbuffer(data)
        findings = [
            *storage_findings(file, self.title),
            *self.findings(file),
        ]
        is_blocked = any(finding.is_blocking for finding in findings)
        placement = {} if is_blocked else {self.title: operator_counts(file)}
        return CheckReport(self.name, placement, tuple(findings), {})

    def findings(self, file: Flatbuffer) -> list[Finding]:
        """Returns the faults of a file on the device; none by default."""
        return []

    def check_untrained(self, data: bytes) -> CheckReport:
        """Says where the operators of a model would run, before its training.

        Args:
            data: The bytes of its file, one byte a weight.
        """
        return self.check(data)

    def check_model(self, trained: "TrainedModel") -> CheckReport:
        """Does the same where `weighs_codes` is False.

        Zeros may change the operators there, so there is no file to check.

        Args:
            trained: The model, with samples.
        """
        raise NotImplementedError

    def refusal(self, error: Exception) -> CheckReport:
        """Returns the report on a model that the export would refuse."""
        finding = Finding("export", str(error), "")
        return CheckReport(self.name, {}, (finding,), {})


_REGISTERED: dict[str, Target] = {}


def register_target(target: Target) -> None:
    """Makes a target known to `export`, `check` and the command line.

    Args:
        target: The target; its name must be new.

    Raises:
        ValueError: If it is no `Target`, has no name, or has a known one.

    Example:

    >>> class Npu(Target):
    ...     name, title = "litert", "the NPU"
    >>> register_target(Npu())
    Traceback (most recent call last):
    ...
    ValueError: The name of a target must be new. Received: 'litert', the \
name of a LiteRt. Choose another, and register a target once.
    """
    if not isinstance(target, Target) or not target.name or not target.title:
        raise ValueError(
            "A target must be an instance of a subclass of `Target` with a "
            f"`name` and a `title`. Received: {target!r}. Make one as in "
            "`register_target(Npu())`."
        )
    if target.name in _REGISTERED:
        raise ValueError(
            f"The name of a target must be new. Received: {target.name!r}, the "
            f"name of a {type(_REGISTERED[target.name]).__name__}. Choose "
            "another, and register a target once."
        )
    _REGISTERED[target.name] = target


def find_target(name: str) -> Target:
    """Returns the target of a name with its settings; wrong ones are an error.

    Example:

    >>> find_target("lite-rt")
    Traceback (most recent call last):
    ...
    ValueError: `target` must be one of ['litert', 'litert-sparse', 'tflm', \
'edgetpu', 'ethos-u'] or a size such as 'ethos-u55-128'. Received: \
target='lite-rt'. Did you mean 'litert'?
    >>> find_target("tflm,arena=32000")
    Traceback (most recent call last):
    ...
    ValueError: The target 'tflm' can have these settings, each as \
',name=value': 'max_arena_bytes' (the most RAM of its arena). Received: \
'tflm,arena=32000'.
    """
    given = TargetName(name if isinstance(name, str) else "")
    if given.plain in _REGISTERED:
        target = _REGISTERED[given.plain]
        given.require_known(target.settings)
        settings = given.settings
        return target.configured(settings) if settings else target
    names = [t.name for t in _REGISTERED.values() if not t.is_variant]
    sizes = [t.name for t in _REGISTERED.values() if t.is_variant]
    closest = difflib.get_close_matches(given.plain, _REGISTERED, n=1)
    hint = f" Did you mean {closest[0]!r}?" if closest else ""
    if not isinstance(name, str):
        hint = " Call `register_target` with it, and pass its name."
    raise ValueError(
        f"`target` must be one of {names} or a size such as {sizes[0]!r}. "
        f"Received: target={name!r}.{hint}"
    )


def weight_storages() -> list[str]:
    """Returns the values of `weight_storage` over all targets."""
    return list(
        dict.fromkeys(s for t in _REGISTERED.values() for s in t.storages)
    )
