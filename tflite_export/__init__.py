"""Ships a quantized model as a `.tflite` file whose integers are proven.

Modules: `export` and `delivery` (the order of the steps), `preflight` (before
training), `representative` (samples), `convert` (TensorFlow), `weight_sites`,
`exact_conversion` with `rewrites`, `matching`, `exact_weights` and
`float_codes` (the trained integers), `storage`, `packing` and
`sparse_encoding` (their bytes), `sparse_inference` and `symmetric_padding`
(graphs for sparse kernels), `converter_mends` (what the converter gets wrong),
`graph` and `flatbuffer` (the file format), `interpreter`, `sandbox` and `arm`
(LiteRT here and on an emulated phone),
`verify`, `inspect` and `targets`; `benchmark` with `measurements` and `sizes`.
"""

from tflite_export.checking import check
from tflite_export.exporting import export
from tflite_export.inspection import Inspection, TensorRow, inspect
from tflite_export.measuring.benchmark import benchmark
from tflite_export.measuring.report import BenchmarkReport, BenchmarkRow
from tflite_export.result import ExportResult
from tflite_export.targets.findings import CheckReport, Finding
from tflite_export.targets.target import Package, Target, register_target
from tflite_export.verification.report import (
    OutputComparison,
    VerificationReport,
)
from tflite_export.verification.verify import (
    verify,
)

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
    "register_target",
    "verify",
]
