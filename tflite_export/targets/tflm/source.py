"""The C++ source of a model for a microcontroller: an array and a header."""

import re
from collections.abc import Sequence

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Tensor
from tflite_export.targets.tflm.revision import needed_tflm

# Optimized kernels take scratch buffers that the reference kernels, which
# were measured, do not need.
ARENA_MARGIN = 1.25
_ARENA_STEP = 16
_BYTES_PER_LINE = 12
# Names that the rule of `add_method` does not give.
_METHODS = {
    "BATCH_MATMUL": "AddBatchMatMul",
    "CUMSUM": "AddCumSum",
    "PADV2": "AddPadV2",
    "TFLM_DECODE": "AddDecode",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
    "ethos-u": "AddEthosU",
}


def model_name(stem: str) -> str:
    """Returns the name of files, namespace and include guard of a model.

    The ending keeps it apart from names of C and C++, such as `string`.

    Example:

    >>> model_name("kws"), model_name("2024 yes-no"), model_name("model")
    ('kws_model', 'm2024_yes_no_model', 'model')
    >>> model_name("häuser"), model_name("--")
    ('hue4user_model', 'm_model')
    """
    parts = (
        letter
        if letter.isascii() and letter.isalnum()
        else "_"
        if letter.isascii()
        else f"u{ord(letter):x}"
        for letter in stem
    )
    # C++ keeps names with two underscores for itself.
    word = re.sub(r"_+", "_", "".join(parts)).strip("_")
    if not word[:1].isalpha():
        word = f"m{word}"
    return word if word == "model" else f"{word}_model"


def add_method(operator: str) -> str:
    """Returns the method of `MicroMutableOpResolver` for an operator.

    Example:

    >>> add_method("DEPTHWISE_CONV_2D")
    'AddDepthwiseConv2D'
    >>> add_method("TFLM_DECODE")
    'AddDecode'
    """
    if operator in _METHODS:
        return _METHODS[operator]
    words = operator.split("_")
    return "Add" + "".join(
        word if word[:1].isdigit() else word.capitalize() for word in words
    )


def methods(file: Flatbuffer) -> list[str]:
    """Returns the methods for all operators of a file."""
    return [add_method(o) for o in sorted({o.name for o in file.operators})]


def arena_size(arena_bytes: int) -> int:
    """Returns a measured arena with the margin.

    Example:

    >>> arena_size(1000)
    1264
    """
    return -(-round(arena_bytes * ARENA_MARGIN) // _ARENA_STEP) * _ARENA_STEP


def header(data: bytes, name: str, *, arena_bytes: int) -> str:
    """Returns the header: the array, the arena, the operators, the scales."""
    file = Flatbuffer(data)
    calls = methods(file)
    registered = " &&\n         ".join(f"resolver.{c}() == 0" for c in calls)
    inputs, outputs = file.interface()
    values = [
        *_interface("Input", [file.tensor(0, index) for index in inputs]),
        *_interface("Output", [file.tensor(0, index) for index in outputs]),
    ]
    return f"""#ifndef {name}_H_
#define {name}_H_

// {needed_tflm([o.name for o in file.operators])}

namespace {name} {{

extern const unsigned char kModel[];
constexpr unsigned int kModelSize = {len(data)};

// {arena_bytes} bytes, measured on a 64-bit host with reference kernels, and a
// quarter more: optimized kernels take scratch buffers.
constexpr unsigned int kTensorArenaSize = {arena_size(arena_bytes)};

// Use: tflite::MicroMutableOpResolver<{name}::kNumOperators> resolver;
//      if (!{name}::RegisterOperators(resolver)) {{ ... }}
constexpr unsigned int kNumOperators = {len(calls)};

template <typename Resolver>
bool RegisterOperators(Resolver& resolver) {{
  return {registered or "true"};
}}

// A real value is (code - zero point) * scale.
{chr(10).join(values)}

}}  // namespace {name}

#endif  // {name}_H_
"""


def _interface(kind: str, tensors: Sequence[Tensor]) -> list[str]:
    """The lines that say how to write inputs, or to read outputs."""
    lines = []
    for number, tensor in enumerate(tensors):
        name = printable(tensor.short_name)
        shape = ", ".join(map(str, tensor.shape))
        prefix = f"k{kind}{number}"
        lines.append(f'// {kind} {number}, "{name}": {tensor.dtype}, [{shape}]')
        size = int(np.prod(tensor.shape))
        lines.append(f"constexpr unsigned int {prefix}Size = {size};")
        scale, zero_point = quantization(tensor)
        if scale:
            lines.append(f"constexpr float {prefix}Scale = {scale}f;")
            lines.append(f"constexpr int {prefix}ZeroPoint = {zero_point};")
    return lines


def quantization(tensor: Tensor) -> tuple[str, str]:
    """Returns the scale and the zero point of an input or an output."""
    if not tensor.scales.size:
        return "", ""
    scale = np.format_float_scientific(np.float32(tensor.scales[0]))
    zero_point = tensor.zero_points[0] if tensor.zero_points.size else 0
    return scale, str(int(zero_point))


def printable(name: str) -> str:
    """Returns a name for a comment: it is anything, and a comment is a line."""
    return re.sub(r"[^\w ./:-]", "?", name, flags=re.ASCII)


def source(data: bytes, name: str) -> str:
    """Returns the source with the bytes of the file, which includes the header.

    Example:

    >>> print(source(b"TFL3", "kws_model"))
    #include "kws_model.h"
    <BLANKLINE>
    namespace kws_model {
    <BLANKLINE>
    // The weights are read in place, and kernels rely on the alignment.
    alignas(16) const unsigned char kModel[] = {
        0x54, 0x46, 0x4c, 0x33,
    };
    <BLANKLINE>
    }  // namespace kws_model
    <BLANKLINE>
    """
    lines = []
    for start in range(0, len(data), _BYTES_PER_LINE):
        row = data[start : start + _BYTES_PER_LINE]
        lines.append("    " + ", ".join(f"0x{byte:02x}" for byte in row) + ",")
    body = "\n".join(lines)
    return f"""#include "{name}.h"

namespace {name} {{

// The weights are read in place, and kernels rely on the alignment.
alignas(16) const unsigned char kModel[] = {{
{body}
}};

}}  // namespace {name}
"""
