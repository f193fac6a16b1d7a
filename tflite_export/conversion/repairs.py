"""Repairs faults of the converter in its file.

SPLIT stays in float if nothing reads one of its parts: that part has no range.
The forget gate in the first step of an unrolled LSTM is such a part. In about
half of the converter's runs SPLIT then stands between a DEQUANTIZE and
QUANTIZEs. All have the same scale, so the integers themselves can be split.

An operator that only moves integers cannot change their scale. The converter
gives the output of REVERSE_V2 another scale if a multiplication by a constant
and an addition follow. All later values are then wrong by that factor.

ONE_HOT copies the codes of its two values. The converter gives each a scale of
its own, so that zeros become a half.

Keras casts an index to float and back, as in CategoryEncoding, or reads it from
a float input. The converter gives that float tensor 256 levels, and the cast
back truncates. Such tensors become integers again, inputs included. An index
that is computed in float cannot, so its file is refused.
"""

from collections.abc import Collection

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import (
    NO_SCALES,
    Constant,
    InputSite,
    Operator,
    Tensor,
)
from tflite_export.trained_model import TrainedModel

# SPLIT's second input; the first is the axis.
_VALUE = 1
# ONE_HOT's third and fourth input.
_ON_AND_OFF = (2, 3)

# Rare samples exceed the moving average of the extremes, but not that far.
MAX_EXCESS = 4
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_INTEGERS = ("bool", "int8", "uint8", "int16", "int32", "int64")
# The user wants an integer of a real number.
_ROUNDING = ("CEIL", "FLOOR", "FLOOR_DIV", "ROUND")

# They copy integers of their first input.
_MOVING = {
    "BATCH_TO_SPACE_ND", "BROADCAST_TO", "DEPTH_TO_SPACE", "EXPAND_DIMS",
    "GATHER", "GATHER_ND", "RESHAPE", "REVERSE_V2", "SLICE",
    "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SQUEEZE", "STRIDED_SLICE", "TILE",
    "TRANSPOSE", "UNPACK",
}  # fmt: skip


def repaired_file(data: bytes) -> Flatbuffer:
    """Reads a file of the converter, and repairs its faults."""
    file = Flatbuffer(data)
    while (found := _find(file)) is not None:
        split, dequantize, quantizes = found
        compute_on_integers(file, split, dequantize, _VALUE, quantizes)
    for operator in file.operators:
        if operator.name in _MOVING and _changes_scale(file, operator):
            keep_scale(file, operator)
        if operator.name == "ONE_HOT":
            _give_output_scale(file, operator)
    _keep_indices(file)
    return file


def input_notes(file: Flatbuffer, trained: TrainedModel) -> list[str]:
    """Returns notes on inputs of another type, and on samples out of range."""
    notes = []
    tensors = getattr(trained.plain, "inputs", None) or trained.inputs
    known = file.inputs()
    for index, (spec, tensor) in enumerate(
        zip(trained.inputs, tensors, strict=True)
    ):
        held = known.get(spec.name)
        if held is not None and held.dtype == "int32" != spec.dtype:
            notes.append(
                f"Input {spec.name!r} is int32 in the file: the model reads "
                "indices from it."
            )
        trained_range = trained.ranges.get(tensor.name)
        if trained_range is None or trained.samples is None:
            continue
        largest = float(np.abs(trained.samples[index]).max(initial=0))
        limit = max(trained_range.high, -trained_range.low)
        if largest > MAX_EXCESS * limit:
            notes.append(
                f"The samples of input {spec.name!r} reach {largest:.3g}, and "
                f"those of the training {limit:.3g}: the file clips the rest. "
                "Prepare samples as for training."
            )
    return notes


def compute_on_integers(
    file: Flatbuffer,
    operator: Operator,
    dequantize: Operator,
    position: int,
    quantizes: Collection[Operator],
) -> None:
    """Lets an operator move integers without the conversions around it.

    `dequantize` computes its input at `position`, and stays if others read that
    too. `quantizes` make integers of the same scale of its outputs, one for
    each output that is read.
    """
    subgraph, source = operator.subgraph, dequantize.inputs[0]
    restored = {o.inputs[0]: o.outputs[0] for o in quantizes}
    outputs = [restored.get(index, index) for index in operator.outputs]
    for index in set(outputs) - set(restored.values()):
        file.quantize_like(subgraph, index, source)
    file.set_outputs(operator, outputs)
    file.set_input(InputSite(subgraph, operator.index, position), source)
    floats = dequantize.outputs[0]
    is_read = any(
        floats in o.inputs for o in file.operators if o.subgraph == subgraph
    )
    file.remove([*quantizes, *([] if is_read else [dequantize])])


def keep_scale(file: Flatbuffer, operator: Operator) -> None:
    """Gives the outputs of an operator the scale of its first input."""
    for output in operator.outputs:
        file.quantize_like(operator.subgraph, output, operator.inputs[0])


def _give_output_scale(file: Flatbuffer, one_hot: Operator) -> None:
    """Writes the two values of a ONE_HOT at the scale of its output."""
    subgraph, (output,) = one_hot.subgraph, one_hot.outputs
    result = file.tensor(subgraph, output)
    for position in _ON_AND_OFF if result.scales.size == 1 else ():
        index = one_hot.inputs[position]
        held = file.tensor(subgraph, index)
        if held.data is None or _is_same_scale(held, result):
            continue
        value = (held.data - held.zero_points[0]) * held.scales[0]
        code = np.round(value / result.scales[0]) + result.zero_points[0]
        copy = file.copy_tensor(subgraph, index)
        codes = np.clip(code, -128, 127).astype(held.data.dtype)
        file.write(subgraph, copy, Constant(codes, NO_SCALES, 0))
        file.quantize_like(subgraph, copy, output)
        file.set_input(InputSite(subgraph, one_hot.index, position), copy)


def _changes_scale(file: Flatbuffer, operator: Operator) -> bool:
    """Whether an operator's outputs have another scale than its input."""
    source = file.tensor(operator.subgraph, operator.inputs[0])
    results = [file.tensor(operator.subgraph, o) for o in operator.outputs]
    return source.scales.size == 1 and any(
        result.dtype == source.dtype and not _is_same_scale(source, result)
        for result in results
    )


def _is_same_scale(first: Tensor, second: Tensor) -> bool:
    return np.array_equal(first.scales, second.scales) and np.array_equal(
        first.zero_points, second.zero_points
    )


def _find(
    file: Flatbuffer,
) -> tuple[Operator, Operator, list[Operator]] | None:
    """A SPLIT between needless conversions, and the conversions."""
    operators, (_, outputs) = file.operators, file.interface()
    for split in [o for o in operators if o.name == "SPLIT"]:
        near = [o for o in operators if o.subgraph == split.subgraph]
        sources = [o for o in near if split.inputs[_VALUE] in o.outputs]
        if [o.name for o in sources] != ["DEQUANTIZE"]:
            continue
        readers = [o for o in near if set(o.inputs) & set(split.outputs)]
        parts = {o.inputs[0] for o in readers}
        if (
            all(_is_inverse(file, o, sources[0]) for o in readers)
            and len(parts) == len(readers)
            and not set(split.outputs) & set(outputs)
        ):
            return split, sources[0], readers
    return None


def _is_inverse(
    file: Flatbuffer, quantize: Operator, dequantize: Operator
) -> bool:
    """Whether a QUANTIZE restores the integers before a DEQUANTIZE."""
    if quantize.name != "QUANTIZE":
        return False
    before = file.tensor(dequantize.subgraph, dequantize.inputs[0])
    after = file.tensor(quantize.subgraph, quantize.outputs[0])
    return before.dtype == after.dtype and _is_same_scale(before, after)


def _keep_indices(file: Flatbuffer) -> None:
    """Lets indices stay integers where the converter made int8 of them."""
    places = [
        (o.subgraph, o.index)
        for o in file.operators
        if o.name == "CAST" and _makes_index(file, o)
    ]
    for place in places:
        (cast,) = (o for o in file.operators if (o.subgraph, o.index) == place)
        indices = _as_integers(file, cast.subgraph, cast.inputs[0], cast)
        if indices is None:
            _require_not_rounded(file, cast)
            continue
        file.set_input(InputSite(cast.subgraph, cast.index, 0), indices)
    if places:
        _remove_idle(file)


def _makes_index(file: Flatbuffer, cast: Operator) -> bool:
    """Whether a CAST makes integers of a float tensor that was int8 before."""
    source = file.tensor(cast.subgraph, cast.inputs[0])
    result = file.tensor(cast.subgraph, cast.outputs[0])
    return source.dtype == "float32" and result.dtype in _INTEGERS[1:]


def _as_integers(
    file: Flatbuffer, subgraph: int, index: int, cast: Operator
) -> int | None:
    """The tensor of integers that an index is copied from; None if computed.

    Inputs and tensors that only indices are read from become integers, of the
    type that the CAST makes.
    """
    source = _maker(file, subgraph, index)
    if source is None:
        tensor = file.tensor(subgraph, index)
        if tensor.dtype in ("float32", "int8") and tensor.data is None:
            if not _is_read_as_index(file, subgraph, index):
                return None
            file.quantize_like(subgraph, index, cast.outputs[0])
        return index if tensor.data is None else None
    before = source.inputs[0]
    if source.name in _CONVERSIONS:
        return _as_integers(file, subgraph, before, cast)
    if source.name == "CAST":
        held = file.tensor(subgraph, before).dtype
        return before if held in _INTEGERS[1:] else None
    if source.name not in _MOVING:
        return None
    if file.tensor(subgraph, index).dtype in ("int32", "int64"):
        return index  # For another CAST.
    if not _is_read_as_index(file, subgraph, index):
        return None
    integers = _as_integers(file, subgraph, before, cast)
    if integers is not None:
        file.set_input(InputSite(subgraph, source.index, 0), integers)
        for output in source.outputs:
            file.quantize_like(subgraph, output, integers)
        return index
    return None


def _is_read_as_index(file: Flatbuffer, subgraph: int, index: int) -> bool:
    """Whether all that reads a tensor moves it, or casts it to integers."""
    readers = [
        o
        for o in file.operators
        if o.subgraph == subgraph and index in o.inputs
    ]
    return index not in file.interface(subgraph)[1] and all(
        file.tensor(subgraph, reader.outputs[0]).dtype in _INTEGERS[1:]
        if reader.name == "CAST"
        else reader.name in (*_CONVERSIONS, *_MOVING)
        and all(_is_read_as_index(file, subgraph, o) for o in reader.outputs)
        for reader in readers
    )


def _maker(file: Flatbuffer, subgraph: int, index: int) -> Operator | None:
    """The operator that computes a tensor; None for inputs and constants."""
    makers = (
        o
        for o in file.operators
        if o.subgraph == subgraph and index in o.outputs
    )
    return next(makers, None)


def _remove_idle(file: Flatbuffer) -> None:
    """Removes casts to the same type, and what nothing reads any more."""
    for cast in [o for o in file.operators if o.name == "CAST"]:
        source, result = cast.inputs[0], cast.outputs[0]
        types = [file.tensor(cast.subgraph, i).dtype for i in (source, result)]
        if types[0] == types[1]:
            _read_instead(file, cast.subgraph, result, source)
    kinds = (*_CONVERSIONS, "CAST")
    while idle := [
        o for o in file.operators if o.name in kinds and not _is_read(file, o)
    ]:
        file.remove(idle)


def _read_instead(file: Flatbuffer, subgraph: int, old: int, new: int) -> None:
    """Lets all operators read another tensor; outputs of the file stay."""
    for operator in file.operators:
        for position, index in enumerate(operator.inputs):
            if operator.subgraph == subgraph and index == old:
                site = InputSite(subgraph, operator.index, position)
                file.set_input(site, new)


def _is_read(file: Flatbuffer, operator: Operator) -> bool:
    read = set(file.interface(operator.subgraph)[1])
    for other in file.operators:
        if other.subgraph == operator.subgraph:
            read |= set(other.inputs)
    return bool(read & set(operator.outputs))


def _require_not_rounded(file: Flatbuffer, cast: Operator) -> None:
    """Raises a ValueError if an index is computed from 256 levels."""
    cone, names = [cast.inputs[0]], set[str]()
    for index in cone:
        maker = _maker(file, cast.subgraph, index)
        if maker is not None and maker.name != "CAST":
            names.add(maker.name)
            cone += [i for i in maker.inputs if i >= 0 and i not in cone]
    tensors = [file.tensor(cast.subgraph, index) for index in cone]
    is_rounded = any(t.scales.size for t in tensors if t.data is None)
    if not is_rounded or names & set(_ROUNDING):
        return
    name = file.tensor(cast.subgraph, cast.outputs[0]).short_name
    raise ValueError(
        "Expected indices of integers, such as tokens, categories and "
        f"positions, all the way. Received: {name!r}, a cast to integers of "
        "numbers that were computed in float. The file would round them to "
        "256 levels and look up others. Give the input "
        '`keras.Input(..., dtype="int32")`, and compute indices in integers: '
        '`keras.ops.cast(..., "int32")` before the arithmetic.'
    )
