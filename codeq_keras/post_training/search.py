"""search: the most zeros within a drop of a score."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from codeq_keras import costs
from codeq_keras.post_training.compression import Compression

# Zeros to 1.5 % of all weights.
_NUM_TRIALS = 6
_MOST = 0.95


def search(
    compression: Compression,
    model: keras.Model,
    evaluate: Callable[[keras.Model], float],
    max_drop: float,
) -> None:
    """Rounds to the most zeros whose score is within the drop of `model`'s.

    Raises a ValueError where no zeros at all drop more.
    """
    show = print if compression.verbose else _hide
    reference = _score(evaluate, model, "the model as given")
    show(f"{'zeros':>8} {'bytes':>12} {'score':>10} {'drop':>10}")

    def drop_at(sparsity: float) -> float:
        if sparsity:
            compression.meet("sparsity", 1.0 - sparsity)
        else:
            compression.round(0.0)
        qmodel = compression.qmodel
        score = _score(evaluate, qmodel, f"{sparsity:.1%} zeros")
        found = costs.deployed_costs(qmodel.kernels)
        show(
            f"{float(costs.sparsity(found)):8.1%} "
            f"{float(costs.size_bytes(found)):12,.0f} {score:10.4f} "
            f"{reference - score:10.4f}"
        )
        return reference - score

    least = drop_at(0.0)
    if least > max_drop:
        raise ValueError(
            f"`max_drop` cannot be met at this bit width: without a dead zone "
            f"the score drops by {least:.4g}. Received: max_drop={max_drop}. "
            "Allow more, or take more bits, as in "
            "`CoDeQConfig(bit_width=8, level_grid='uniform', axis=-1)`."
        )
    low, high, last = 0.0, _MOST, 0.0
    for _ in range(_NUM_TRIALS):
        last = (low + high) / 2
        if drop_at(last) <= max_drop:
            low = last
        else:
            high = last
    if low != last:
        drop_at(low)


def _score(
    evaluate: Callable[[keras.Model], float], model: keras.Model, name: str
) -> float:
    score: Any = evaluate(model)
    try:
        value = float(score) if np.ndim(score) == 0 else np.nan
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(
            "`evaluate` must return a finite number, as an accuracy. Received: "
            f"{score!r} for {name}."
        )
    return value


def _hide(text: str) -> None:
    """Shows nothing."""
