"""The C++ source of a model for a microcontroller: an array and a header."""

from collections.abc import Sequence

from tflite_export.format.records import Operator
from tflite_export.targets.tflm.revision import needed_tflm

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


def header(operators: Sequence[Operator], *, arena_bytes: int) -> str:
    """Returns the header: the array, the arena, the operators."""
    names = sorted({operator.name for operator in operators})
    calls = " &&\n         ".join(
        f"resolver.{add_method(name)}() == 0" for name in names
    )
    return f"""#ifndef MODEL_H_
#define MODEL_H_

// {needed_tflm(names)}

extern const unsigned char g_model[];
extern const unsigned int g_model_len;

// Measured on a 64-bit host, where pointers are larger than on the device.
constexpr unsigned int kTensorArenaSize = {arena_bytes};

// Use: static tflite::MicroMutableOpResolver<kNumOperators> resolver;
//      if (!RegisterOperators(resolver)) {{ ... }}
constexpr unsigned int kNumOperators = {len(names)};

template <typename Resolver>
bool RegisterOperators(Resolver& resolver) {{
  return {calls};
}}

#endif  // MODEL_H_
"""


def source(data: bytes, *, header_name: str) -> str:
    """Returns the source with the bytes of the file, which includes the header.

    Example:

    >>> print(source(b"TFL3", header_name="model.h"))
    #include "model.h"
    <BLANKLINE>
    // The weights are read in place, and kernels rely on the alignment.
    alignas(16) const unsigned char g_model[] = {
        0x54, 0x46, 0x4c, 0x33,
    };
    const unsigned int g_model_len = 4;
    <BLANKLINE>
    """
    lines = []
    for start in range(0, len(data), _BYTES_PER_LINE):
        row = data[start : start + _BYTES_PER_LINE]
        lines.append("    " + ", ".join(f"0x{byte:02x}" for byte in row) + ",")
    body = "\n".join(lines)
    return f"""#include "{header_name}"

// The weights are read in place, and kernels rely on the alignment.
alignas(16) const unsigned char g_model[] = {{
{body}
}};
const unsigned int g_model_len = {len(data)};
"""
