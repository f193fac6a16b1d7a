"""Extras that `ablation.py` tries and the package does not have."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

import codeq_keras
from codeq_keras.ops.grids import Grid
from codeq_keras.training.schedule import LAST_RATE, LOGIT_TRAVEL

# Where the logits stop in `freeze_logits`.
_FREEZE_AFTER = 0.8


def keep_logit_rate(model: codeq_keras.QuantizedModel) -> None:
    """Lets the logits move at one rate to the end, as far as on the cosine.

    Args:
        model: Quantized model, changed in place.
    """
    _set_logit_rate(model, lambda progress: 0.5)


def freeze_logits(model: codeq_keras.QuantizedModel) -> None:
    """Holds the logits over the last fifth of the training.

    Args:
        model: Quantized model, changed in place.
    """

    def fraction(progress: Any) -> Any:
        progress = progress / _FREEZE_AFTER
        cosine = 0.5 * (1.0 + ops.cos(math.pi * ops.minimum(progress, 1.0)))
        return ops.where(progress < 1.0, ops.maximum(cosine, LAST_RATE), 0.0)

    _set_logit_rate(model, fraction)


def _set_logit_rate(
    model: codeq_keras.QuantizedModel, fraction: Callable[[Any], Any]
) -> None:
    """Makes the rate a fraction of its peak, by the progress in [0, 1]."""
    schedule = model.schedule

    def rate() -> Any:
        num_steps = ops.cast(schedule.num_steps, "float32")
        peak = LOGIT_TRAVEL / ops.maximum(num_steps, 1.0)
        return peak * fraction(schedule.progress())

    schedule.logit_rate = rate


class LearnedBoundQuantizer(codeq_keras.DeadZoneQuantizer):
    """A quantizer whose bound `A` is the quantile times a learned factor.

    Reference:

    - [Learned Step Size Quantization, 2019](https://arxiv.org/abs/1902.08153),
      section 2. Differs from it in: it is the logarithm of a factor on the
      quantile that is learned, and saturated weights keep their gradient.
    """

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Creates the factor as well, a scalar."""
        super().build(input_shape)
        self.log_factor = self.add_weight(
            shape=(), initializer="zeros", name="log_factor"
        )

    def call(self, weights: Any) -> Any:
        """Returns the deployed values, with LSQ's gradient for the factor."""
        quantized = super().call(weights)
        factor = ops.exp(ops.convert_to_tensor(self.log_factor))
        weights = ops.convert_to_tensor(weights)
        bound = self.grid.abs_bound
        is_inside = ops.abs(weights) <= bound
        slope = ops.where(is_inside, quantized - weights, quantized)
        max_code = 2.0 ** (int(self.config.bit_width) - 1) - 1
        scale = 1 / math.sqrt(math.prod(weights.shape) * max_code)
        change = factor - ops.stop_gradient(factor)
        return quantized + scale * change * ops.stop_gradient(slope / factor)

    @property
    def grid(self) -> Grid:
        """The grid of the bound; all its lengths grow with the factor."""
        grid = super().grid
        factor = ops.exp(ops.stop_gradient(self.log_factor))
        lengths = ("abs_bound", "width", "spacing", "offset", "scale")
        return dataclasses.replace(
            grid, **{name: factor * getattr(grid, name) for name in lengths}
        )


class OscillationRegularizer(keras.callbacks.Callback):
    """Pushes weights away from their levels, towards the thresholds.

    Adds `-strength / 2 * sum((w - q) ** 2)` to the loss, `q` the deployed
    value without gradient.

    Args:
        strength: Float > 0.

    Reference:

    - [Oscillations Make Neural Networks Robust to Quantization,
      2025](https://arxiv.org/abs/2502.00490), by its gradient. Differs from
      it in: it comes on top of quantization-aware training.
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Switches it on."""
        model = self.model

        def training_loss(x: Any, y_pred: Any, sample_weight: Any) -> Any:
            total = 0.0
            for kernel in model.quantized_kernels:
                weights = ops.convert_to_tensor(kernel.variable)
                level = ops.stop_gradient(kernel.values())
                total = total + ops.sum((weights - level) ** 2)
            return -0.5 * self.strength * total

        model.training_loss = training_loss
        model.make_train_function(force=True)
