"""Magnitude pruning on TFMOT's polynomial schedule, for any Keras backend."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from baselines.masked_model import MaskedModel
from codeq_keras.architecture.kernels import Kernel

# TFMOT's defaults: the masks change every 100 steps, with exponent 3.
FREQUENCY = 100
POWER = 3

# A schedule starts from this density where the goal is below it.
_INITIAL_DENSITY = 0.6


def layer_wise_densities(
    kernels: Sequence[Kernel], density: float, *, exponent: float
) -> list[float]:
    """Returns the densities that one threshold over the whole model leaves.

    The threshold acts on `|w|`, divided by the root mean square of its kernel
    and by the multiply-accumulates per weight to the power `exponent`. The
    `density` is of the multiply-accumulates.
    """
    scores, costs = [], []
    for kernel in kernels:
        weights = np.abs(keras.ops.convert_to_numpy(kernel.variable))
        costs.append((kernel.num_macs or 0) / kernel.num_weights)
        rms = np.sqrt(np.mean(weights**2))
        scores.append(weights / rms / costs[-1] ** exponent)
    masks = best_of_all(scores, costs, density)
    # No kernel may vanish: a network that is cut in two learns nothing.
    return [max(mask.sum(), 1) / mask.size for mask in masks]


def best_of_all(
    scores: Sequence[np.ndarray], costs: Sequence[float], density: float
) -> list[np.ndarray]:
    """Returns masks of the best scores, to a fraction of all weights' costs."""
    flat = np.concatenate([score.ravel() for score in scores])
    cost = np.repeat(costs, [score.size for score in scores])
    ranked = np.argsort(-flat)
    kept = int((np.cumsum(cost[ranked]) <= density * cost.sum()).sum())
    threshold = flat[ranked[max(kept - 1, 0)]]
    return [score >= threshold for score in scores]


def set_masks(model: MaskedModel, densities: Sequence[float]) -> None:
    """Keeps the largest weights of every kernel and zeroes the others."""
    for kernel, mask, density in zip(
        model.kernels, model.masks, densities, strict=True
    ):
        weights = keras.ops.convert_to_numpy(kernel.variable)
        magnitudes = np.abs(weights)
        kept = max(1, round(density * magnitudes.size))
        threshold = np.partition(magnitudes.ravel(), -kept)[-kept]
        keep = (magnitudes >= threshold) & (magnitudes > 0)
        mask.assign(keep.astype("float32"))
        kernel.variable.assign(weights * keep)


def polynomial_decay(progress: float, start: float, end: float) -> float:
    """Returns TFMOT's `PolynomialDecay` at a fraction of its duration."""
    remaining = 1.0 - min(max(progress, 0.0), 1.0)
    return end + (start - end) * remaining**POWER


class PruneOnSchedule(keras.callbacks.Callback):
    """Prunes a `MaskedModel` gradually, to the densities at the end step."""

    def __init__(self, densities: Sequence[float], *, end_step: int) -> None:
        super().__init__()
        self.densities, self.end_step, self.step = densities, end_step, 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Sets the first masks."""
        self._update()

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Sets new masks every 100 steps until the schedule ends."""
        self.step += 1
        due = self.step % FREQUENCY == 0 and self.step < self.end_step
        if due or self.step == self.end_step:
            self._update()

    def _update(self) -> None:
        # Under JAX the trained state is written back only on request.
        if keras.backend.backend() == "jax" and self.step:
            self.model.jax_state_sync()
        progress, first = self.step / self.end_step, _INITIAL_DENSITY
        ends = self.densities
        now = [polynomial_decay(progress, max(end, first), end) for end in ends]
        set_masks(self.model, now)
