"""Small images that a tiny network learns to tell apart in seconds."""

import numpy as np


def stripes(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with vertical stripes (0) or horizontal ones (1)."""
    rng = np.random.default_rng(len(split))
    labels = rng.integers(0, 2, count)
    x = rng.normal(size=(count, 8, 8, 1)).astype("float32")
    x[labels == 0, :, ::2] += 1
    x[labels == 1, ::2] += 1
    return x, labels
