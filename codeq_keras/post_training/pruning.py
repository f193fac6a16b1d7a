"""Which weights stay: one threshold on what each adds to its outputs."""

from collections.abc import Callable, Sequence

import numpy as np

# Bisections of the threshold: to 1e-9 of the range of the scores.
_NUM_HALVINGS = 50


def threshold_for(
    scores: Sequence[np.ndarray], is_met: Callable[[float], bool]
) -> float:
    """Returns the least threshold that meets a budget; 0 if none is needed.

    A weight stays if its score is larger. Larger thresholds meet the budget,
    too.
    """
    if is_met(0.0):
        return 0.0
    found = np.concatenate([np.ravel(s) for s in scores])
    positive = found[(found > 0) & np.isfinite(found)]
    low, high = np.log(positive.min()), np.log(positive.max()) + 1e-3
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        if is_met(float(np.exp(middle))):
            high = middle
        else:
            low = middle
    return float(np.exp(high))
