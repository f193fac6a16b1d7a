"""Shows what a `.tflite` file of any origin holds."""

from tflite_export.inspection.inspecting import Inspection, inspect
from tflite_export.inspection.node_data import write_node_data
from tflite_export.inspection.rows import TensorRow, entropy_bits, tensor_rows

__all__ = [
    "Inspection",
    "TensorRow",
    "entropy_bits",
    "inspect",
    "tensor_rows",
    "write_node_data",
]
