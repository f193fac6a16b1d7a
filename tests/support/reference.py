"""Float64 NumPy oracle, written from the paper's equations with loops.

Imports neither package.
"""

import math

import numpy as np


def quantile(values: np.ndarray, q: float) -> float:
    """Linear interpolation between order statistics."""
    ordered = sorted(float(v) for v in np.ravel(values))
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (
        ordered[above] - ordered[below]
    )


def grid(bound: float, logit: float, bit_width: int):
    """Dead-zone width, level spacing, offset and largest code."""
    width = 2 * bound * (1 - abs(math.tanh(logit)))  # Eq. (15)
    max_code = 2 ** (bit_width - 1) - 1
    spacing = (bound - width / 2) / (max_code - 0.5) + 1e-8  # Eq. (12)
    offset = width / 2 - spacing / 2
    return width, spacing, offset, max_code


def index(weight: float, spacing: float, offset: float, max_code: int) -> int:
    """Signed index of the level, Eq. (10)."""
    sign = float(np.sign(weight))
    rounded = round(sign * max(abs(weight) - offset, 0.0) / spacing)
    return max(-max_code, min(max_code, rounded))


def fake_quantize(
    weights: np.ndarray, bound: float, logit: float, bits: int, level_grid: str
) -> np.ndarray:
    """The deployed value of every weight."""
    width, spacing, offset, max_code = grid(bound, logit, bits)
    kept = [abs(w) for w in np.ravel(weights) if abs(w) > width / 2]
    mean_kept = sum(kept) / len(kept) if kept else 1e-8
    result = []
    for w in np.ravel(weights).astype("float64"):
        k = index(w, spacing, offset, max_code)
        sign = (k > 0) - (k < 0)
        level = offset + spacing * abs(k)
        if level_grid == "paper":
            result.append(sign * level)
        elif max_code == 1:
            result.append(sign * mean_kept)
        elif level_grid == "dead_zone":
            result.append(
                sign * max(round(127 * level / bound), 1) * bound / 127
            )
        else:
            step = bound / max_code
            code = max(-max_code, min(max_code, round(w / step)))
            result.append(code * step if abs(w) > width / 2 else 0.0)
    return np.reshape(result, np.shape(weights))


def gradients(
    weights: np.ndarray,
    upstream: np.ndarray,
    bound: float,
    logit: float,
    bits: int,
) -> tuple[np.ndarray, float, float]:
    """Closed-form gradients with respect to weights, logit and bits."""
    _, spacing, offset, max_code = grid(bound, logit, bits)
    to_spacing = to_offset = 0.0
    flat = zip(np.ravel(weights), np.ravel(upstream), strict=True)
    for w, g in flat:
        w, g = float(w), float(g)
        sign = float(np.sign(w))
        k = index(w, spacing, offset, max_code)
        position = sign * max(abs(w) - offset, 0.0) / spacing
        to_spacing += g * (k - position)
        to_offset += g * (((k > 0) - (k < 0)) - sign)
    # offset = width / 2 - spacing / 2, spacing = (bound - width / 2) / (Q - .5)
    width_to_logit = (
        -2 * bound * math.copysign(1, logit) / math.cosh(logit) ** 2
    )
    spacing_to_width = -0.5 / (max_code - 0.5)
    through_spacing = to_spacing - to_offset / 2
    to_width = through_spacing * spacing_to_width + to_offset / 2
    code_to_bits = math.log(2) * 2 ** (bits - 1)
    spacing_to_bits = -spacing / (max_code - 0.5) * code_to_bits
    return (
        upstream,
        to_width * width_to_logit,
        through_spacing * spacing_to_bits,
    )
