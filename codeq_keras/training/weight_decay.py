"""exclude_from_weight_decay: spares variables, on top of the user's own."""

from collections.abc import Sequence
from typing import Any

import keras


def exclude_from_weight_decay(
    optimizer: Any, variables: Sequence[keras.Variable]
) -> None:
    """Excludes variables, and forgets none that were excluded before.

    The method of this name in `keras.optimizers.Optimizer` keeps what its last
    call excluded only, and has no public way to ask for it. An optimizer that
    is built is left as it is, and so are the members of a `MultiOptimizer`.

    Example:

    >>> kernel, logit = keras.Variable([1.0]), keras.Variable([2.0])
    >>> optimizer = keras.optimizers.SGD(1.0, weight_decay=0.5)
    >>> exclude_from_weight_decay(optimizer, [logit])
    >>> optimizer.apply([0 * kernel, 0 * logit], [kernel, logit])
    >>> float(kernel[0]), float(logit[0])
    (0.5, 2.0)
    """
    # With mixed precision, a LossScaleOptimizer is around the one that decays.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if optimizer is None or optimizer.built:
        return
    excluded: set[Any] = getattr(optimizer, "_exclude_from_weight_decay", set())
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    optimizer.exclude_from_weight_decay(
        variables, [pattern.pattern] if pattern else None
    )
    optimizer._exclude_from_weight_decay |= excluded
