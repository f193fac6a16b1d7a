"""Levels of a grid for rows, and the search of the bounds they scale with."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from keras import ops

from codeq_keras.config import MAX_LOGIT, CoDeQConfig
from codeq_keras.ops.grids import make_grid

# Of the largest weight of a scale: what a bound may be.
_FACTORS = np.linspace(1.0, 0.2, 33)

# Of the bound: half widths of the dead zone that place the levels of the grid
# "dead_zone".
_RATIOS = np.linspace(0.0, 0.6, 13)


@dataclasses.dataclass(frozen=True)
class Levels:
    """Magnitudes that a weight may have, as parts of the bound.

    Attributes:
        logit: The dead-zone logit that they belong to.
        values: They, from 0 to 1.
    """

    logit: float
    values: np.ndarray

    def nearest(self, weights: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """Returns the nearest level of each weight; the shapes broadcast."""
        middles = (self.values[1:] + self.values[:-1]) / 2
        parts = np.abs(weights) / bounds
        found = self.values[np.searchsorted(middles, parts)]
        return (np.sign(weights) * found * bounds).astype("float32")


@functools.cache
def levels_of(config: CoDeQConfig) -> tuple[Levels, ...]:
    """Returns the choices of levels that a kernel of a config has."""
    if config.level_grid == "uniform":
        # Half a step: where rounding prunes by itself.
        ratios = [0.5 / _largest_index(config)]
    else:
        ratios = list(_RATIOS)
    return tuple(_levels(config, ratio) for ratio in ratios)


def _levels(config: CoDeQConfig, ratio: float) -> Levels:
    logit = min(math.atanh(1.0 - ratio), MAX_LOGIT) if ratio else MAX_LOGIT
    grid = make_grid(1.0, logit, config.bit_width, config.level_grid)
    indices: np.ndarray = np.arange(
        1, _largest_index(config) + 1, dtype="float32"
    )
    weights = ops.convert_to_tensor(
        float(grid.offset) + float(grid.spacing) * indices
    )
    codes, scale = grid.codes_and_scale(weights)
    found = ops.convert_to_numpy(codes) * float(scale)
    return Levels(logit, np.unique(np.append(found, 0.0)).astype("float32"))


def _largest_index(config: CoDeQConfig) -> int:
    return 2 ** (int(config.bit_width) - 1) - 1


def search_bounds(
    rows: np.ndarray,
    owners: np.ndarray,
    weights: np.ndarray,
    choices: Sequence[Levels],
) -> tuple[Levels, np.ndarray]:
    """Returns the levels and the bound of each scale with the least error.

    `rows` are `(groups, rows, columns)`, `owners` the number of the scale of
    each row, `weights` those of the squared errors of each column.
    """
    count = int(owners.max()) + 1
    largest: np.ndarray = np.zeros(count, "float32")
    np.maximum.at(largest, owners.ravel(), np.abs(rows).max(-1).ravel())
    # A scale without weights may have any bound.
    largest = np.where(largest > 0, largest, 1.0).astype("float32")
    found = []
    for levels in choices:
        errors = np.stack(
            [
                _errors(rows, owners, weights, levels, factor * largest)
                for factor in _FACTORS
            ]
        )
        bounds = _FACTORS[errors.argmin(0)] * largest
        found.append((errors.min(0).sum(), levels, bounds.astype("float32")))
    _, levels, bounds = min(found, key=lambda each: each[0])
    return levels, bounds


def _errors(
    rows: np.ndarray,
    owners: np.ndarray,
    weights: np.ndarray,
    levels: Levels,
    bounds: np.ndarray,
) -> np.ndarray:
    """The squared error of each scale."""
    errors = rows - levels.nearest(rows, bounds[owners][..., None])
    of_rows = np.sum(np.square(errors) * weights, axis=-1)
    return np.bincount(owners.ravel(), of_rows.ravel(), len(bounds))
