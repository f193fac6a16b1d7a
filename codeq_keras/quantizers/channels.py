"""How a quantized model gets its gates, and how a smaller one takes over."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from codeq_keras.architecture.channels import ChannelMap, find_channels
from codeq_keras.architecture.copying import assign_copy
from codeq_keras.architecture.kernels import Kernel
from codeq_keras.ops.intervals import as_python
from codeq_keras.quantizers.channel_gates import ChannelGates, reason_to_stay
from codeq_keras.quantizers.dead_zone import DeadZoneQuantizer
from codeq_keras.quantizers.kernels import (
    QuantizedKernel,
    hold_zeros_where,
    kernels_of,
    quantized,
    states_of,
)

# Options of a config for groups of neighbours, which a removed channel breaks.
_GROUPING = {"sparsity_block": 1, "sparsity_pattern": None}


def make_gates(
    model: keras.Model, kernels: Sequence[Kernel], multiple: int | None
) -> ChannelGates | None:
    """Returns the gates of a model; None without a multiple."""
    if multiple is None:
        return None
    channels = find_channels(model)
    _require_free(channels, multiple, model)
    gates = ChannelGates(channels, kernels, multiple)
    _require_single_zeros(gates)
    return gates


def require_multiple(multiple: Any) -> int | None:
    """Returns the multiple, or None; anything else is a ValueError."""
    multiple = as_python(multiple)
    is_integer = isinstance(multiple, int) and not isinstance(multiple, bool)
    if multiple is not None and not (is_integer and multiple >= 1):
        raise ValueError(
            "`channel_multiple` must be None or an integer >= 1, the channels "
            "that the device computes at a time: 16 for phones, 8 for "
            "microcontrollers and Ethos-U. Received: "
            f"channel_multiple={multiple!r}."
        )
    return multiple


def _require_free(
    channels: ChannelMap, multiple: int, model: keras.Model
) -> None:
    """Raises a ValueError unless a class may lose channels."""
    reasons = [reason_to_stay(found, multiple) for found in channels.classes]
    if None in reasons:
        return
    named = "; ".join(dict.fromkeys(map(str, reasons))) or "it has no kernels"
    raise ValueError(
        "`channel_multiple` needs channels that can be removed. Received: "
        f"channel_multiple={multiple} for {model.name!r}, whose channels all "
        f"stay: {named}. Give a smaller multiple where that is the reason, "
        "otherwise leave it out."
    )


def _require_single_zeros(gates: ChannelGates) -> None:
    """Raises a ValueError where weights are pruned in blocks."""
    for gate in gates.by_kernel.values():
        config = getattr(
            getattr(gate.kernel, "quantizer", None), "config", None
        )
        for name, neutral in _GROUPING.items():
            value = getattr(config, name, neutral)
            if value == neutral:
                continue
            raise ValueError(
                "Channels cannot be removed from groups of weights that are "
                f"pruned together. Received: channel_multiple={gates.multiple} "
                f"and {name}={value!r} for {gate.kernel.path!r}. Train with "
                "channels first, then quantize "
                "`strip_quantizers(remove_channels(qmodel))` anew."
            )


def copy_quantizers(
    source: Sequence[Kernel],
    target: Sequence[Kernel],
    narrowed: Callable[[np.ndarray, keras.Variable], np.ndarray],
) -> None:
    """Gives the kernels of a smaller model the quantizers of a larger one.

    `narrowed` slices an array that broadcasts to a variable of the larger. The
    codes of all channels that stay are the same.
    """
    for old, new in zip(states_of(source), states_of(target), strict=True):
        for name, logit in new.logits.items():
            copy_variables(old.logits[name].variables, logit.variables)
        for index, kernel in enumerate(kernels_of(old, source)):
            bound = ops.convert_to_numpy(old.bound(index))
            new.hold_bound(index, narrowed(bound, kernel.variable))
        is_held = ops.convert_to_numpy(old.held_zeros) >= 0
        hold_zeros_where(new, target, is_held)
    for large, small in zip(quantized(source), quantized(target), strict=True):
        if not isinstance(large.quantizer, DeadZoneQuantizer):
            _copy_own(large, small, narrowed)


def _copy_own(
    old: QuantizedKernel,
    new: QuantizedKernel,
    narrowed: Callable[[np.ndarray, keras.Variable], np.ndarray],
) -> None:
    """Copies the variables of a quantizer of another class."""
    for source, target in zip(
        old.quantizer.variables, new.quantizer.variables, strict=True
    ):
        values = ops.convert_to_numpy(source)
        if len(values.shape) == len(old.variable.shape):
            values = narrowed(values, old.variable)
        if values.shape != tuple(target.shape):
            raise ValueError(
                "Expected a quantizer whose variables are scalars, or "
                "broadcast to the kernel. Received: "
                f"{source.path!r} of shape {tuple(source.shape)} for "
                f"{old.path!r}, from which channels are to be removed."
            )
        assign_copy(target, values)


def copy_gates(
    old: ChannelGates,
    new: ChannelGates | None,
    kept: Mapping[int, np.ndarray],
) -> None:
    """Gives the gates of a smaller model the state of those of a larger."""
    if new is None:
        return
    rows = [old.numbers.index(number) for number in new.numbers]
    for source, target in zip(
        old.logit.variables, new.logit.variables, strict=True
    ):
        target.assign(ops.convert_to_numpy(source)[rows])
    energies = np.full(new.energy.shape, -1.0, "float32")
    held = ops.convert_to_numpy(old.energy)
    for index, (number, row) in enumerate(zip(new.numbers, rows, strict=True)):
        energies[index, : len(kept[number])] = held[row][kept[number]]
    new.hold_energies(energies)
    copy_variables([old.is_measured], [new.is_measured])


def copy_variables(sources: Iterable[Any], targets: Iterable[Any]) -> None:
    """Gives variables the values of others, of the same shapes."""
    for source, target in zip(sources, targets, strict=True):
        assign_copy(target, source)
