"""How a quantized model gets its gates, and how a smaller one takes over."""

from collections.abc import Sequence
from typing import Any

import keras

from codeq_keras.architecture.channels import find_channels
from codeq_keras.architecture.kernels import Kernel
from codeq_keras.ops.intervals import as_python
from codeq_keras.quantizers.channel_gates import ChannelGates


def make_gates(
    model: keras.Model, kernels: Sequence[Kernel], multiple: int | None
) -> ChannelGates | None:
    """Returns the gates of a model; None without a multiple."""
    if multiple is None:
        return None
    gates = ChannelGates(find_channels(model), kernels, multiple)
    _require_removable(gates, model)
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


def _require_removable(gates: ChannelGates, model: keras.Model) -> None:
    """Raises a ValueError unless channels can be removed, exactly."""
    if not gates.numbers:
        reasons = [gates.reason(n) for n in range(len(gates.channels.classes))]
        raise ValueError(
            "`channel_multiple` needs channels that can be removed. Received: "
            f"{model.name!r}, whose channels all stay: "
            f"{'; '.join(dict.fromkeys(map(str, reasons)))}."
        )
    for gate in gates.by_kernel.values():
        config = getattr(
            getattr(gate.kernel, "quantizer", None), "config", None
        )
        if config is not None and config.sparsity_block > 1:
            raise ValueError(
                "Channels cannot be removed from blocks that are pruned "
                f"together. Received: channel_multiple={gates.multiple} and "
                f"sparsity_block={config.sparsity_block} for "
                f"{gate.kernel.path!r}. Train with channels first, then "
                "quantize `strip_quantizers(remove_channels(qmodel))` anew."
            )
