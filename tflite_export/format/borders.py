"""The types at the borders of a file: int8, uint8 or float32, in and out.

The converter does the same for `inference_input_type`. A QUANTIZE behind each
input makes the int8 codes that the graph computes with, and a DEQUANTIZE or
QUANTIZE in front of each output makes the type of the border from them. A uint8
code is the int8 code plus 128, so nothing is rounded there.
"""

import dataclasses

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Tensor

IO_DTYPES = ("int8", "uint8", "float32")
# The least uint8 code is that of the int8 code -128.
_UINT8_OFFSET = 128
_NOTES = {
    "uint8": "Inputs and outputs are uint8: their codes are those of int8 plus "
    "128.",
    "float32": "Inputs and outputs are float32: the file rounds them itself, "
    "to the int8 codes that it computes with.",
}


@dataclasses.dataclass(frozen=True)
class Borders:
    """The inputs and outputs of a file."""

    file: Flatbuffer

    def convert(self, io_dtype: str) -> list[str]:
        """Gives int8 inputs and outputs another type; returns notes.

        Integers without a scale, such as tokens, stay as they are.
        """
        if io_dtype == "int8":
            return []
        file = self.file
        inputs, outputs = file.interface()
        entering = {i: self._add(i, io_dtype) for i in self._codes(inputs)}
        leaving = {i: self._add(i, io_dtype) for i in self._codes(outputs)}
        for index, border in entering.items():
            file.insert(0, 0, "QUANTIZE", [border], index)
        name = "DEQUANTIZE" if io_dtype == "float32" else "QUANTIZE"
        for index, border in leaving.items():
            count = sum(o.subgraph == 0 for o in file.operators)
            file.insert(0, count, name, [index], border)
        file.set_interface(entering, leaving)
        for index in {*entering, *leaving}:
            file.rename(0, index, "")
        kept = [i for i in (*inputs, *outputs) if i not in entering | leaving]
        tensors = [file.tensor(0, index) for index in dict.fromkeys(kept)]
        others = [f"{t.name!r} stays {t.dtype}." for t in tensors]
        return [" ".join([_NOTES[io_dtype], *others])]

    def step(self, output: Tensor) -> float | None:
        """Returns the step of an output's codes; None if computed in float.

        That of a float output is the step of the codes that a DEQUANTIZE at
        the end reads.
        """
        if output.scales.size:
            return float(output.scales[0])
        for operator in self.file.operators:
            is_last = (
                operator.subgraph == 0 and output.index in operator.outputs
            )
            if is_last and operator.name == "DEQUANTIZE":
                scales = self.file.tensor(0, operator.inputs[0]).scales
                return float(scales[0]) if scales.size == 1 else None
        # An integer without a scale counts: its step is 1.
        return None if output.dtype == "float32" else 1.0

    def _codes(self, indices: tuple[int, ...]) -> list[int]:
        """The tensors of an interface that hold int8 codes, each once."""
        tensors = [
            self.file.tensor(0, index) for index in dict.fromkeys(indices)
        ]
        return [
            t.index for t in tensors if t.dtype == "int8" and t.scales.size == 1
        ]

    def _add(self, index: int, io_dtype: str) -> int:
        """Adds the tensor that the user sees, with the name of the int8 one."""
        codes = self.file.tensor(0, index)
        border = self.file.copy_tensor(0, index, codes.name)
        if io_dtype == "float32":
            self.file.set_type(0, border, io_dtype)
        else:
            zero_point = int(codes.zero_points[0]) + _UINT8_OFFSET
            self.file.set_type(0, border, io_dtype, codes.scales, zero_point)
        return border
