"""CompressionRegularizer: sums the compression penalties into the loss."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from codeq_keras import costs
from codeq_keras.architecture.kernels import Kernel
from codeq_keras.costs import KernelCost, Rate
from codeq_keras.ops.intervals import Interval, as_python, require_number
from codeq_keras.quantizers.channel_gates import ChannelGates
from codeq_keras.quantizers.kernels import kernels_of, states_of
from codeq_keras.training.schedule import SETTLED_FRACTION

# Weight of the squared log-ratio to the budget; 30 to 100 all meet it.
_BUDGET_STRENGTH = 100.0

# Aims half a percent below the budget, and as much above the least density of
# a kernel, so that noise ends inside.
_MARGIN = 0.995

# The budget tightens over this fraction of the training, then stays. A half
# cost 0.4 points at 1.25 % of the BOPs. Channels go at once, as soon as their
# energies are known: the others need the training to take over. A tenth cost
# 0.4 points of validation at a quarter of the MACs.
_RAMP_FRACTION = 0.2
_CHANNEL_RAMP_FRACTION = 0.02


def require_regularizer(regularizer: Any) -> "CompressionRegularizer":
    """Returns it, or for None a new one; anything else is a ValueError."""
    if regularizer is None:
        return CompressionRegularizer()
    if not isinstance(regularizer, CompressionRegularizer):
        raise ValueError(
            "`regularizer` must be a CompressionRegularizer, or None. "
            f"Received: regularizer={regularizer!r}. Write its penalties by "
            "name, as in `CompressionRegularizer(density_penalty=0.1)`; those "
            "of Keras belong to a layer, `kernel_regularizer`."
        )
    return regularizer


@keras.saving.register_keras_serializable(package="codeq_keras")
class CompressionRegularizer(keras.layers.Layer):
    """Sums the sparsity and bit-width penalties of a model into its loss.

    With `theta_dz`, `theta_bit` the logits, `n` the number of weights of a
    kernel and `z` its fraction of zeros, the penalty is

        dead_zone_penalty * sum(theta_dz ** 2)
        + bit_width_penalty * sum(theta_bit ** 2)
        + density_penalty * sum(n * (1 - z)) / sum(n)

    The first two are the paper's, see below. They stall near 50 % sparsity
    because their gradient vanishes with the logit; the third reaches any
    sparsity and spares small layers. `CompressionBudget` switches on another,
    `100 * ln(current / target) ** 2`, whose gradient alone joins that of the
    loss. Nothing is added outside of training, so that `val_loss` stays
    comparable.

    To train as published, put the first two on `level_grid="paper"`. Its
    logits are plain weights, and under SGD the penalty shrinks them by the
    factor `1 - 2 * penalty * learning_rate / (1 - momentum)` per step, until
    the loss of the task pushes back. The sum of these rates over the
    training decides: at a sum below `ln(3 / 1)` the dead zone does not open.
    Give the logits an optimizer of their own, as the paper does, by the path
    of their variables. Weight decay of a single optimizer spares logits, that
    of a `MultiOptimizer` is that of its members. Under Adam the strength of
    the penalty has almost no effect.

    Args:
        dead_zone_penalty: Float >= 0, the paper's lambda_dz.
        bit_width_penalty: Float >= 0, the paper's lambda_bit. Acts on kernels
            with `bit_width="learned"` only.
        density_penalty: Float >= 0.

    Raises:
        ValueError: If a penalty is negative or not finite.

    Example:

    >>> regularizer = CompressionRegularizer(density_penalty=0.1)
    >>> regularizer.density_penalty
    0.1

    The paper's own training: 4 bits, lambda_dz = 0.01.

    >>> import codeq_keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> qmodel = codeq_keras.quantize_model(
    ...     model,
    ...     codeq_keras.CoDeQConfig(bit_width=4, level_grid="paper"),
    ...     regularizer=CompressionRegularizer(dead_zone_penalty=0.01),
    ... )
    >>> logits = keras.optimizers.SGD(1e-3, momentum=0.9)
    >>> weights = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4)
    >>> qmodel.compile(
    ...     keras.optimizers.MultiOptimizer(
    ...         keras.optimizers.OptimizerMap(weights, {".*_logit/.*": logits})
    ...     ),
    ...     "mse",
    ... )
    >>> x, y = keras.ops.ones((100, 4)), keras.ops.ones((100, 3))
    >>> history = qmodel.fit(x, y, batch_size=1, verbose=0)
    >>> float(qmodel.kernels[0].quantizer.dead_zone_logit) < 3.0
    True

    Reference:

    - [CoDeQ, 2025](https://arxiv.org/abs/2512.12981), Eq. (16) and (19).
      Differs from it in: the penalties on density and on the budget.
    """

    def __init__(
        self,
        *,
        dead_zone_penalty: float = 0.0,
        bit_width_penalty: float = 0.0,
        density_penalty: float = 0.0,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.dead_zone_penalty = as_python(dead_zone_penalty)
        self.bit_width_penalty = as_python(bit_width_penalty)
        self.density_penalty = as_python(density_penalty)
        for name, value in self._penalties().items():
            require_number(name, value, Interval(0, has_low=True))
        self.budget: str | None = None
        self.min_densities: tuple[float, ...] = ()
        self.rates: tuple[Rate, ...] = ()
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables that hold the budget."""
        self.log_start = self.add_weight(
            initializer="zeros", trainable=False, name="log_start"
        )
        self.log_target = self.add_weight(
            initializer="zeros", trainable=False, name="log_target"
        )
        self.built = True

    def set_budget(
        self,
        budget: str | None,
        *,
        start: float = 1.0,
        target: float = 1.0,
        min_densities: Sequence[float] = (),
        rates: Sequence[Rate] = (),
    ) -> None:
        """Switches the budget penalty on, or off with None.

        A training function that was traced before does not see the change:
        call `model.make_train_function(force=True)`.

        Args:
            budget: A key of `codeq_keras.costs.MEASURES`, `"file_bytes"`, or
                None.
            start: The measure of the model now, > 0.
            target: The measure at the end of the training, > 0.
            min_densities: The least density of each kernel, of what removed
                channels leave. There the budget stops to push, and another
                penalty pushes back. 0 for no limit; empty for none at all.
            rates: Those of `costs.file_bytes`, for that budget.
        """
        self.budget = budget
        self.min_densities = tuple(min_densities)
        self.rates = tuple(rates)
        self.log_start.assign(ops.log(start))
        self.move_target(target)

    def move_target(self, target: float) -> None:
        """Sets the measure at the end anew, in a training that runs."""
        self.log_target.assign(ops.log(_MARGIN * target))

    def penalty(self, kernels: Sequence[Kernel]) -> Any | None:
        """Returns the penalties but the budget's; None without any."""
        terms = []
        states = states_of(kernels)
        dead_zones = [state.tensors()[0] for state in states]
        if self.dead_zone_penalty and dead_zones:
            terms.append(self.dead_zone_penalty * _sum_of_squares(dead_zones))
        widths = [s.tensors()[1] for s in states if s.bit_width_logit]
        if self.bit_width_penalty and widths:
            terms.append(self.bit_width_penalty * _sum_of_squares(widths))
        if self.density_penalty:
            trained = costs.trained_costs(kernels)
            terms.append(self.density_penalty * costs.density(trained))
        return sum(terms) if terms else None

    def pull(
        self,
        kernels: Sequence[Kernel],
        gates: ChannelGates | None,
        *,
        progress: Any,
        unit: Any,
    ) -> Any:
        """The gradient of the budget's penalty, as a loss of the value 0.

        So the loss is that of the task alone, as in validation. `unit` is that
        of `quantizers.balance`. Behind the ramp the channels are held, in the
        last steps the zeros.
        """
        trained = costs.trained_costs(kernels)
        if gates is not None:
            limit = ops.exp(self.log_target) / _MARGIN
            gates.settle(
                when=progress >= self._ramp,
                relative_macs=limit if self._is_of_macs else None,
            )
        if self.holds_zeros:
            self._settle(kernels, trained, progress)
        pull = self._budget_penalty(trained, progress) + unit
        return pull - ops.stop_gradient(pull)

    def budget_penalty(
        self, kernels: Sequence[Kernel], *, progress: Any
    ) -> Any:
        """Returns the penalty of the budget; 0 where it is met.

        One on channels is met below its target as well: they go in steps.
        """
        trained = costs.trained_costs(kernels)
        penalty = self._budget_penalty(trained, progress)
        if not self._is_of_macs:
            return penalty
        is_met = self._log_measure(trained) <= self.log_target - math.log(
            _MARGIN
        )
        return ops.where(is_met, 0.0, penalty)

    def _budget_penalty(
        self, trained: Sequence[KernelCost], progress: Any
    ) -> Any:
        """The penalty of the budget, and of each kernel with a least density.

        Differentiable by the logits; see `quantizers.balance` for its weight.
        The budget sees a kernel at its least density as one that has no more
        to give, so that it turns to the others instead of pushing against the
        second penalty.
        """
        terms = []
        trained = list(trained)
        for index, min_density in enumerate(self.min_densities):
            if min_density == 0:
                continue
            limit, cost = min(min_density / _MARGIN, 1.0), trained[index]
            trained[index] = dataclasses.replace(
                cost, density=ops.maximum(cost.density, limit * cost.kept)
            )
            # Of what removed channels leave.
            density = ops.clip(cost.density / cost.kept, 1e-6, limit)
            shortfall = ops.log(limit / density)
            terms.append(_BUDGET_STRENGTH * shortfall**2)
        remaining = ops.maximum(1.0 - progress / self._ramp, 0.0) ** 3
        log_target = self.log_target + remaining * (
            self.log_start - self.log_target
        )
        excess = self._log_measure(trained) - log_target
        return sum(terms, _BUDGET_STRENGTH * excess**2)

    @property
    def holds_zeros(self) -> bool:
        """Whether a budget is on that holds zeros at the end."""
        return self.budget is not None and not self._is_of_macs

    @property
    def _is_of_macs(self) -> bool:
        return self.budget == "relative_macs"

    @property
    def _ramp(self) -> float:
        return _CHANNEL_RAMP_FRACTION if self._is_of_macs else _RAMP_FRACTION

    def _log_measure(self, trained: Sequence[KernelCost]) -> Any:
        if self.rates:
            current = costs.file_bytes(trained, self.rates)
        else:
            current = costs.MEASURES[self.budget or ""](trained)
        # A fully pruned model has the logarithm of 1e-6, not minus infinity.
        return ops.log(ops.maximum(current, 1e-6))

    def _settle(
        self,
        kernels: Sequence[Kernel],
        trained: Sequence[KernelCost],
        progress: Any,
    ) -> None:
        """Holds the zeros that meet the budget in the last steps.

        The densities of all kernels change by one factor, that of the measure
        to the budget. All measures are proportional to them, or nearly; the
        next steps correct the rest. So a budget is met to the last weight, and
        the weights settle around zeros that no longer move.
        """
        factor = ops.exp(self.log_target - self._log_measure(trained))
        least = self.min_densities or (0.0,) * len(kernels)
        number_of = {id(kernel): n for n, kernel in enumerate(kernels)}
        is_last = progress >= SETTLED_FRACTION
        for state in states_of(kernels):
            numbers = [number_of[id(k)] for k in kernels_of(state, kernels)]
            held = ops.convert_to_tensor(state.held_zeros)
            lows = ops.stack([least[n] for n in numbers])
            density = ops.maximum((1.0 - held) * factor, lows)
            density = ops.minimum(density, 1.0)
            counted = np.array(
                [not self.rates or bool(self.rates[n]) for n in numbers]
            )
            is_moved = ops.logical_and(is_last, counted)
            state.hold_zeros(ops.where(is_moved, 1.0 - density, held))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), **self._penalties()}

    def _penalties(self) -> dict[str, float]:
        return {
            "dead_zone_penalty": self.dead_zone_penalty,
            "bit_width_penalty": self.bit_width_penalty,
            "density_penalty": self.density_penalty,
        }


def _sum_of_squares(logits: Sequence[Any]) -> Any:
    return sum(ops.sum(logit**2) for logit in logits)
