"""Computes the scales of the trained codes from the converter's scales.

NumPy only. The converter divides the gain of a folded BatchNormalization out of
its integers and keeps it in the scale. The trained codes need the same gain.
"""

from typing import Any

import numpy as np

from tflite_export.weights import matching
from tflite_export.weights.records import WeightSite
from tflite_export.weights.sites import EMBEDDING_OPERATORS

# float32 rounding of `127 * (scale / 127)` in the converter.
SCALE_ROUNDING = 2e-6


def new_scales(
    site: WeightSite, codes: np.ndarray, trained_scale: Any
) -> tuple[np.ndarray, int]:
    """Returns scales with `new scale * codes = old scale * integers`.

    The integers are the converter's at the site; `codes`, of the same shape,
    replace them. The scales are float32 of shape `(1,)` or `(channels,)`; the
    second result is the number of estimates among them.
    """
    held: np.ndarray = matching.as_rows(site.slot.codes, site.slot.axis).astype(
        np.float64
    )
    codes = matching.as_rows(codes, site.slot.axis)
    old: np.ndarray = site.tensor.scales.astype(np.float64)
    if site.operator.name in EMBEDDING_OPERATORS:
        return _table_scale(old, held, codes, trained_scale)
    if np.array_equal(held, codes):
        return _snap(old, trained_scale), 0
    if old.size == 1 and len(held) > 1:
        factor = matching.MAX_CODE / max(int(np.abs(codes).max()), 1)
        if np.abs(held - factor * codes).max() <= matching.TOLERANCE:
            # One factor fits all channels: the tensor keeps a single scale.
            return _snap(old * factor if codes.any() else old, trained_scale), 0
    old = np.broadcast_to(old, len(held))
    peaks = np.abs(held).max(axis=1)
    is_full = peaks == matching.MAX_CODE
    largest = np.maximum(np.abs(codes.astype(np.int16)).max(axis=1), 1)
    gains = np.where(is_full, peaks / largest, _estimated_gains(held, codes))
    has_codes = gains > 0
    # Any scale is right for a channel of zeros. The converter gives it a tiny
    # one and so a bias of 1e9, which overflows in int4 kernels.
    usual = np.median((old * gains)[has_codes]) if has_codes.any() else None
    free = np.max(trained_scale) if usual is None else usual
    new = np.where(has_codes, old * gains, free)
    return _snap(new, trained_scale), int(np.sum(has_codes & ~is_full))


def _table_scale(
    old: np.ndarray, held: np.ndarray, codes: np.ndarray, trained_scale: Any
) -> tuple[np.ndarray, int]:
    """The trained scale, unless the converter multiplied the table."""
    gain = _estimated_gains(held, codes)
    trained = np.asarray(trained_scale, np.float32).reshape(-1)[:1]
    rounding = 1 / max(float(np.abs(held).max()), 1.0)
    if not codes.any() or abs(old * gain / trained - 1).max() <= rounding:
        return trained, 0
    return (old * gain).astype(np.float32), 1


def _estimated_gains(held: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The gain of each channel, with `round(gain * codes)` equal to `held`.

    Each weight bounds it by `(|held| ± 1/2) / |codes|`. The middle of all
    bounds is closer than least squares: codes have few values, so rounding
    errors repeat there.
    """
    is_used = codes != 0
    size = np.where(is_used, np.abs(codes.astype(np.float64)), 1.0)
    low = np.where(is_used, (np.abs(held) - 0.5) / size, -np.inf).max(axis=1)
    high = np.where(is_used, (np.abs(held) + 0.5) / size, np.inf).min(axis=1)
    is_known = np.isfinite(low) & held.any(axis=1)
    return np.where(is_known, (low + np.where(is_known, high, 0)) / 2, 0.0)


def _snap(scales: np.ndarray, trained_scale: Any) -> np.ndarray:
    """Takes the trained scale itself where only rounding differs."""
    trained = np.unique(np.asarray(trained_scale, np.float64))
    index = np.abs(scales[:, None] - trained).argmin(axis=1)
    nearest = trained[index]
    is_same = np.abs(scales - nearest) <= SCALE_ROUNDING * nearest
    return np.where(is_same, nearest, scales).astype(np.float32)
