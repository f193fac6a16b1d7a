"""One operator's options <-> the objects of the schema, and new operators."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

# The operators that the exporter adds, and the first version of each that
# knows its types. DEQUANTIZE knows scales per channel from version 5 on.
OPERATOR_VERSIONS = {
    "CONV_2D": 3,
    "DENSIFY": 1,
    "DEQUANTIZE": 5,
    "PAD": 1,
    "QUANTIZE": 2,
    "RESHAPE": 1,
}
# The custom operators into which the compilers of devices fold a graph.
ETHOS_U, EDGE_TPU = "ethos-u", "edgetpu-custom-op"
# The custom operator of microcontrollers that unpacks weights before each use.
DECODE = "TFLM_DECODE"
# Those of LiteRT that make a stored constant readable for others.
UNPACKING = ("DENSIFY", "DEQUANTIZE")
_OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DENSIFY": "DensifyOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "PAD": "PadOptions",
    "QUANTIZE": "QuantizeOptions",
    "RESHAPE": "ReshapeOptions",
}
_ENUMERATIONS = {
    "padding": schema.Padding,
    "fusedActivationFunction": schema.ActivationFunctionType,
}


def read_options(operator: Any) -> dict[str, Any]:
    """Returns options by their names in the schema; enumerations by name."""
    options = {}
    for name, value in vars(operator.builtinOptions or object).items():
        if name in _ENUMERATIONS:
            value = _member_names(_ENUMERATIONS[name]).get(value, str(value))
        # Vectors (new shapes) stay out: options are numbers and names.
        if isinstance(value, bool | int | float | str):
            options[name] = value
    return options


def write_option(operator: Any, name: str, value: Any) -> None:
    """Sets an option; an enumeration, such as the padding, by name."""
    if name in _ENUMERATIONS:
        value = getattr(_ENUMERATIONS[name], value)
    setattr(operator.builtinOptions, name, value)


def new_operator(
    name: str, code: int, inputs: Sequence[int], output: int, **options: Any
) -> Any:
    """Returns a new operator; `code` is the index of its code."""
    operator = schema.OperatorT()
    operator.opcodeIndex = code
    operator.inputs = np.array(inputs, np.int32)
    operator.outputs = np.array([output], np.int32)
    if name == DECODE:
        return operator
    kind = _OPTIONS[name]
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
    operator.builtinOptions = getattr(schema, f"{kind}T")()
    for key, value in options.items():
        write_option(operator, key, value)
    return operator


def _member_names(enumeration: type) -> dict[int, str]:
    return {
        value: name
        for name, value in vars(enumeration).items()
        if not name.startswith("_")
    }
