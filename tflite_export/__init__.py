"""Ships a quantized model as a `.tflite` file and proves its codes."""

import importlib
from typing import TYPE_CHECKING, Any

from tflite_export.extras import FILE_MODULES, MODEL_MODULES, require_extra

if TYPE_CHECKING:
    from tflite_export.exporting import export
    from tflite_export.inspection import Inspection, TensorRow, inspect
    from tflite_export.measuring.benchmark import benchmark
    from tflite_export.measuring.export_result import ExportResult
    from tflite_export.measuring.report import BenchmarkReport, BenchmarkRow
    from tflite_export.runtime.predicting import predict
    from tflite_export.targets.checking import check
    from tflite_export.targets.findings import CheckReport, Finding
    from tflite_export.targets.target import Package, Target, register_target
    from tflite_export.verification.report import (
        OutputComparison,
        VerificationReport,
    )
    from tflite_export.verification.verify import verify

__all__ = [
    "BenchmarkReport",
    "BenchmarkRow",
    "CheckReport",
    "ExportResult",
    "Finding",
    "Inspection",
    "OutputComparison",
    "Package",
    "Target",
    "TensorRow",
    "VerificationReport",
    "benchmark",
    "check",
    "export",
    "inspect",
    "predict",
    "register_target",
    "verify",
]

# Imported at first use: functions on files need no Keras.
_HOMES = {
    "BenchmarkReport": "measuring.report",
    "BenchmarkRow": "measuring.report",
    "CheckReport": "targets.findings",
    "ExportResult": "measuring.export_result",
    "Finding": "targets.findings",
    "Inspection": "inspection",
    "OutputComparison": "verification.report",
    "Package": "targets.target",
    "Target": "targets.target",
    "TensorRow": "inspection",
    "VerificationReport": "verification.report",
    "benchmark": "measuring.benchmark",
    "check": "targets.checking",
    "export": "exporting",
    "inspect": "inspection",
    "predict": "runtime.predicting",
    "register_target": "targets.target",
    "verify": "verification.verify",
}
_NEED_MODELS = ("export", "verify")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = MODEL_MODULES if name in _NEED_MODELS else FILE_MODULES
    needed_for = f"`{__name__}.{name}`"
    require_extra(*modules, extra="export", needed_for=needed_for)
    home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(home, name)


def __dir__() -> list[str]:
    return __all__
