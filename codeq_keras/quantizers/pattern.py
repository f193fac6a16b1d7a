"""Which kernels can have the sparsity pattern of their config."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from codeq_keras.architecture.kernels import input_axes
from codeq_keras.config import CoDeQConfig

_GROUP = 4


def pattern_obstacle(layer: Any, variable: Any) -> str | None:
    """Why a kernel cannot have 2 of 4 input channels; None if it can."""
    axes = input_axes(layer, variable)
    if not axes:
        return "sums over no input channels"
    if len(axes) > 1:
        return f"sums over {len(axes)} axes"
    size = variable.shape[axes[0]]
    if size % _GROUP:
        return f"{size} input channels, no multiple of {_GROUP}"
    return None


def with_pattern(
    config: CoDeQConfig, layer: Any, variable: Any
) -> tuple[CoDeQConfig, dict[str, int], str | None]:
    """Returns what a kernel's quantizer is made with, and the obstacle.

    The config is without a pattern where the kernel cannot have it; else the
    further arguments name the axis of the groups.
    """
    if config.sparsity_pattern is None:
        return config, {}, None
    obstacle = pattern_obstacle(layer, variable)
    if obstacle is not None:
        config = dataclasses.replace(config, sparsity_pattern=None)
        return config, {}, obstacle
    (axis,) = input_axes(layer, variable)
    return config, {"pattern_axis": axis}, None


def warn_of_obstacles(
    obstacles: Mapping[str, str | None], stacklevel: int
) -> None:
    """Warns once of all kernels that train without the pattern."""
    named = [
        f"{path!r} ({obstacle})"
        for path, obstacle in obstacles.items()
        if obstacle is not None
    ]
    if named:
        warnings.warn(
            "`sparsity_pattern='2:4'` needs groups of 4 input channels. These "
            f"kernels train without it: {', '.join(named)}. Give them a "
            "CoDeQConfig without a pattern in `overrides` to say so yourself.",
            stacklevel=stacklevel + 1,
        )
