"""Budgets that no training can meet, refused before it begins."""

from collections.abc import Mapping
from typing import Any

from codeq_keras.callbacks.misses import words_on_frozen
from codeq_keras.ops.grids import GRIDS
from codeq_keras.ops.intervals import Interval, require_number

FRACTION = Interval(0, 1)


def require_max_sparsity(
    name: str, target: float, limits: float | Mapping[str, float] | None
) -> None:
    """Raises a ValueError for limits out of range, or at odds with a budget."""
    if limits is None:
        return
    named = {"max_sparsity": limits}
    if isinstance(limits, Mapping):
        named = {f"max_sparsity[{k!r}]": v for k, v in limits.items()}
    for key, value in named.items():
        require_number(key, value, FRACTION, "one for all, or in a map")
    if isinstance(limits, Mapping) or name != "sparsity":
        return
    if target > limits:
        raise ValueError(
            "`sparsity` must not be above `max_sparsity`: the whole "
            "cannot have more zeros than each of its parts. Received: "
            f"sparsity={target}, max_sparsity={limits}."
        )


def require_own_rate(model: Any) -> None:
    """Raises a ValueError where the optimizer moves the logits."""
    published = [
        kernel.path
        for kernel in model.quantized_kernels
        if GRIDS[kernel.quantizer.config.level_grid].has_plain_logits
    ]
    if published:
        raise ValueError(
            "A budget needs logits that move at their own rate. Received: "
            f"level_grid='paper' for {published}, whose logits move at "
            "the optimizer's. Use `CompressionRegularizer` there, or "
            "another grid."
        )


def require_channels(model: Any) -> None:
    """Raises a ValueError where no channel can be removed."""
    if model.channel_gates is None:
        raise ValueError(
            "`relative_macs` falls with channels alone. Received: a model "
            "that keeps all. Call `quantize_model(..., "
            "channel_multiple=8)`, or 16 for phones."
        )


def require_reachable_macs(
    model: Any, relative_macs: float, least: float
) -> None:
    """Raises a ValueError for a budget below all that channels allow."""
    if relative_macs < least:
        raise ValueError(
            f"`relative_macs` cannot be below {least:.4g} here: each "
            "class of channels keeps a quarter, in multiples of "
            f"{model.channel_multiple}"
            f"{words_on_frozen(model.channel_gates)}. "
            f"`codeq_keras.report` names all that stay. Received: "
            f"relative_macs={relative_macs}. Allow more, train more "
            "layers, or make `channel_multiple` smaller."
        )


def out_of_reach(name: str, given: float, least: float) -> ValueError:
    """The error for a budget that one weight in each kernel does not meet."""
    side = "above" if name == "sparsity" else "below"
    return ValueError(
        f"`{name}` cannot be {side} {least:.4g} here: so much is left with one "
        "weight in each kernel that is trained, or with all the zeros that "
        "`max_sparsity` allows. Kernels in float or frozen, and scales, are "
        f"part of it. Received: {name}={given:g}. Allow more, or quantize and "
        "train more kernels."
    )
