"""Ships a quantized model as a `.tflite` file whose integers are proven.

Modules: `export` (the order of the steps), `representative` (samples),
`convert` (TensorFlow), `weight_sites`, `matching` and `exact_weights` (the
trained integers), `flatbuffer` (the file format), `interpreter` (LiteRT),
`verify`, `inspect` and `targets`.
"""

from tflite_export.export import ExportResult, export
from tflite_export.inspect import Inspection, TensorRow, inspect
from tflite_export.verify import OutputComparison, VerificationReport, verify

__all__ = [
    "ExportResult",
    "Inspection",
    "OutputComparison",
    "TensorRow",
    "VerificationReport",
    "export",
    "inspect",
    "verify",
]
