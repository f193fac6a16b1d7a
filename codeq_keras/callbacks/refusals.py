"""Budgets that no training can meet, refused before it begins."""

from typing import Any

from codeq_keras.callbacks.misses import words_on_frozen
from codeq_keras.ops.grids import GRIDS


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
