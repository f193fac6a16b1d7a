"""CompressionBudget: trains a quantized model to one number."""

import warnings
from collections.abc import Mapping
from typing import Any

import keras

from codeq_keras import costs
from codeq_keras.architecture.kernels import Kernel
from codeq_keras.callbacks.fit_callback import FitCallback
from codeq_keras.callbacks.hints import say_start
from codeq_keras.callbacks.logger import CompressionLogger
from codeq_keras.callbacks.misses import (
    is_lowered,
    least_costs,
    reason_of_miss,
    words_on_frozen,
)
from codeq_keras.config import first_match, require_patterns
from codeq_keras.costs import FLOAT_BITS, KernelCost, deployed_costs
from codeq_keras.model import QuantizedModel
from codeq_keras.ops.grids import GRIDS
from codeq_keras.ops.intervals import Interval, require_number
from codeq_keras.quantizers.kernels import (
    move_zeros,
    release_zeros,
    save_zeros,
)
from codeq_keras.training.auto import choose_bit_width
from codeq_keras.training.fitting import end_training

_RANGES = {
    "relative_bops": Interval(0, 1),
    "relative_macs": Interval(0, 1),
    "sparsity": Interval(0, 1),
    "bits_per_weight": Interval(0, FLOAT_BITS),
    "size_bytes": Interval(0),
}

# Misses above them, or above 1 %, are warned of at the end of the training.
_TOLERANCES = {
    "relative_bops": 1e-3,
    "relative_macs": 1e-3,
    "sparsity": 5e-3,
    "bits_per_weight": 0.03,
    "size_bytes": 0.0,
}


class CompressionBudget(FitCallback, CompressionLogger):
    """Trains a quantized model to a budget: one number, no schedule to tune.

    Pulls on the densities and bit widths by `100 * ln(current / target) ** 2`,
    with a target that falls geometrically to the budget over the first fifth
    of the training. Dead zones follow the weights: zeros come and go by the
    pulls of the task and the budget alone. Bits settle at half of the
    training, zeros for its last tenth, channels where the target is at the
    budget, for `relative_macs` after 2 %. The pull follows the gradient of the
    loss: its size, weights and scaling do not matter. Runs of 300 steps or
    more meet a budget that the model can meet: BOPs within 0.1 points,
    sparsity within 0.5, bits per weight within 0.03, bytes within 1 %.

    Later trainings without a budget, loaded models included, hold the zeros
    and the bits of each kernel, until `qmodel.release_budget()` or another
    budget. Removed channels stay until another budget. Kernels with a
    quantizer of your own are not held. Kernels of layers that are not
    trainable stay as they are, and count as such.

    Logs what `CompressionLogger` logs, the measure itself, and the penalty at
    the end of the epoch as `budget_penalty`. It is not in `loss`, which is
    that of the task. A monitor such as `val_loss` is best before the budget
    is met: use `ParetoCheckpoint` in the place of
    `ModelCheckpoint(save_best_only=True)`.

    When the training begins, it chooses 4 or 3 bits for kernels with
    `bit_width="auto"`, or to learn them from 2, and says so. Budgets of
    `sparsity` and `relative_macs` leave the bits as they are.

    Args:
        relative_bops: Bit operations relative to the dense float32 model, in
            (0, 1), with 32-bit activations as in the paper. Dense 4-bit
            weights are at 0.125.
        relative_macs: Multiply-accumulates relative to the model with all
            channels, in (0, 1). Falls with removed channels alone, so the
            model needs a `channel_multiple`. Under the other budgets such a
            model loses channels, zeros and bits.
        sparsity: Fraction of zeros among the quantized weights, in (0, 1).
            Those of removed channels count.
        bits_per_weight: Mean of density times bits over the quantized
            weights, in (0, 32): 1 is a 4-bit model with 75 % zeros.
        size_bytes: Bytes of all kernels, coded without loss, > 0: the
            `size_bytes` of `codeq_keras.report`, estimated as
            `codeq_keras.costs.size_bytes` says. Kernels left in float take
            4 bytes a weight of it; biases are not included.
        max_sparsity: Largest fraction of zeros in any one kernel, in (0, 1):
            a float for all, or a map from a regular expression, searched in
            the path of a kernel such as `"block1/conv/kernel"`, to a float;
            the first match wins, kernels without one are not limited. The
            others give up the weights that a limited kernel must keep. Held
            within 0.5 points. Those of removed channels do not count.

    Raises:
        ValueError: If not exactly one budget in its range is given, or
            `sparsity` is above the `max_sparsity` of all kernels; at the
            beginning of `fit`, if the model is not a quantized one, a kernel
            is on `level_grid="paper"`, a key of `max_sparsity` matches no
            kernel, or `relative_bops` meets a kernel whose
            multiply-accumulates are not known.

    Warns:
        UserWarning: At the beginning of `fit`, of weights in float that it
            does not cover, if they are more than 1 % of all. At its end, if
            the budget or `max_sparsity` was missed, with what was reached and
            why; and if a `ModelCheckpoint` kept an epoch from before it was
            met.

    Example:

    >>> CompressionBudget(relative_bops=0.05).target
    0.05
    >>> budget = CompressionBudget(sparsity=0.8, max_sparsity={"head": 0.5})
    >>> CompressionBudget(sparsity=1.5)
    Traceback (most recent call last):
        ...
    ValueError: `sparsity` must be a number in (0, 1). Received: sparsity=1.5.
    """

    def __init__(
        self,
        *,
        relative_bops: float | None = None,
        relative_macs: float | None = None,
        sparsity: float | None = None,
        bits_per_weight: float | None = None,
        size_bytes: float | None = None,
        max_sparsity: float | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        budgets = {
            "relative_bops": relative_bops,
            "relative_macs": relative_macs,
            "sparsity": sparsity,
            "bits_per_weight": bits_per_weight,
            "size_bytes": size_bytes,
        }
        given = {k: v for k, v in budgets.items() if v is not None}
        if len(given) != 1:
            raise ValueError(
                f"Exactly one of {list(budgets)} must be given. "
                f"Received: {given}."
            )
        [(self.name, self.target)] = given.items()
        require_number(self.name, self.target, _RANGES[self.name])
        self.max_sparsity = max_sparsity
        self._require_max_sparsity()

    def _require_max_sparsity(self) -> None:
        """Raises a ValueError for limits out of range, or at odds."""
        limits = self.max_sparsity
        if limits is None:
            return
        named = {"max_sparsity": limits}
        if isinstance(limits, Mapping):
            named = {f"max_sparsity[{k!r}]": v for k, v in limits.items()}
        for name, value in named.items():
            require_number(
                name, value, _RANGES["sparsity"], "one for all, or in a map"
            )
        if isinstance(limits, Mapping) or self.name != "sparsity":
            return
        if self.target > limits:
            raise ValueError(
                "`sparsity` must not be above `max_sparsity`: the whole "
                "cannot have more zeros than each of its parts. Received: "
                f"sparsity={self.target}, max_sparsity={limits}."
            )

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Switches the budget penalty on."""
        super().on_train_begin(logs)
        self._require_own_rate()
        kernels = self.model.kernels
        self._require_channels()
        if self.name in ("relative_bops", "relative_macs"):
            costs.require_macs(self.name, kernels)
        min_densities = self._min_densities()
        found = deployed_costs(kernels)
        is_of_macs = self.name == "relative_macs"
        lowered = any(map(is_lowered, kernels)) or is_of_macs
        if self._measure(found) == 0 or not lowered:
            raise ValueError(
                f"A budget needs quantized kernels with a {self.name} to "
                "lower. Received: a model without. Check `overrides`, and "
                "`trainable` of the layers: frozen kernels stay as they are."
            )
        if self.model.regularizer.budget is not None:
            raise ValueError(
                "Expected one `CompressionBudget` per fit. Received: two. Keep "
                "one; `max_sparsity` limits single kernels."
            )
        if (words := costs.not_covered(kernels)) is not None:
            warnings.warn(f"CompressionBudget: {words}", stacklevel=2)
        bits = choose_bit_width(kernels, found, self.name, self._limit())
        budget = f"CompressionBudget({self.name}={self.target:g})"
        say_start(self.model, budget, bits, self.params.get("verbose"))
        now = deployed_costs(kernels)
        self._num_steps = 0
        self._epochs: dict[int, list[KernelCost]] = {}
        # Below what is possible, the penalty would only drown the task.
        least = least_costs(kernels, now, min_densities)
        self._require_reachable(least)
        limit = max(self._limit(), self._measure(least))
        self.model.regularizer.set_budget(
            self.name,
            start=max(self._measure(now), limit),
            target=limit,
            min_densities=min_densities if any(min_densities) else (),
        )
        self.model.make_train_function(force=True)

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Releases the zeros that a restored file holds."""
        super().on_epoch_begin(epoch, logs)
        if not self._epochs:
            self._release()

    def _release(self) -> None:
        begin = release_zeros if self.name == "relative_macs" else move_zeros
        begin(self.model.kernels)
        if self.model.channel_gates is not None:
            self.model.channel_gates.release()

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Adds the numbers to `logs`."""
        super().on_epoch_end(epoch, logs)
        if logs is not None:
            penalty = self.model.regularizer.budget_penalty(
                self.model.kernels, progress=self.model.schedule.progress()
            )
            logs["budget_penalty"] = float(penalty)
        # Now: a callback that restores weights restores the counter as well.
        self._num_steps = int(self.model.schedule.steps_done())
        found = self._epochs[epoch] = deployed_costs(self.model.kernels)
        save_zeros(self.model.kernels, [1 - cost.density for cost in found])

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Switches the penalty off, where `fit` does not."""
        if not isinstance(self.model, QuantizedModel):
            end_training(self.model)
        super().on_train_end(logs)

    def _require_own_rate(self) -> None:
        """Raises a ValueError where the optimizer moves the logits."""
        published = [
            kernel.path
            for kernel in self.model.quantized_kernels
            if GRIDS[kernel.quantizer.config.level_grid].has_plain_logits
        ]
        if published:
            raise ValueError(
                "A budget needs logits that move at their own rate. Received: "
                f"level_grid='paper' for {published}, whose logits move at "
                "the optimizer's. Use `CompressionRegularizer` there, or "
                "another grid."
            )

    def on_fit_end(self) -> None:
        """Warns if the budget was missed, by now or by a restored epoch."""
        now = deployed_costs(self.model.kernels)
        self._warn_of_layers(now)
        if self._is_met(now):
            self._warn_of_checkpoints()
            return
        warnings.warn(
            f"CompressionBudget({self.name}={self.target:g}) was missed: "
            f"{self.name} is {self._value(now):.6g}. "
            f"{self._reason(now)}",
            stacklevel=2,
        )

    def _warn_of_checkpoints(self) -> None:
        """Warns of files of an epoch from before the budget was met."""
        for callback in getattr(self.model, "fit_callbacks", ()):
            if not isinstance(callback, keras.callbacks.ModelCheckpoint):
                continue
            values = self.model.history.history.get(callback.monitor, [])
            kept = [
                (epoch, found)
                for (epoch, found), value in zip(
                    self._epochs.items(), values, strict=False
                )
                if callback.save_best_only and value == callback.best
            ]
            if kept and not self._is_met(kept[0][1]):
                epoch, found = kept[0]
                warnings.warn(
                    f"`ModelCheckpoint` kept epoch {epoch + 1} in "
                    f"{callback.filepath!r}, whose {self.name} is "
                    f"{self._value(found):.6g}: it is the best of "
                    f"{callback.monitor!r}, from before the budget was met. "
                    "Use `ParetoCheckpoint`, or save the model after `fit`.",
                    stacklevel=3,
                )

    def _warn_of_layers(self, now: list[KernelCost]) -> None:
        """Warns of kernels with more zeros than `max_sparsity` allows."""
        slack = _TOLERANCES["sparsity"]
        exceeded = [
            f"{kernel.path!r} has {1 - cost.density / cost.kept:.1%} zeros"
            for kernel, cost, least in zip(
                self.model.kernels, now, self._min_densities(), strict=True
            )
            # A single weight can be more than the slack.
            if cost.density / cost.kept
            < least - max(slack, 1 / (cost.kept * kernel.num_weights))
        ]
        if exceeded:
            warnings.warn(
                f"`max_sparsity={self.max_sparsity}` was exceeded: "
                f"{'; '.join(exceeded)}. Weights that round to zero are no "
                "matter of the budget: give the kernel more bits, or the grid "
                "'dead_zone'. Otherwise train for more steps.",
                stacklevel=3,
            )

    def _min_densities(self) -> list[float]:
        """The least density of each kernel; 0 where there is no limit."""
        limits = self.max_sparsity
        if limits is None:
            limits = {}
        elif not isinstance(limits, Mapping):
            limits = {"": limits}
        kernels: list[Kernel] = self.model.kernels
        require_patterns("max_sparsity", limits, [k.path for k in kernels])
        return [
            1.0 - first_match(kernel.path, limits, 1.0)
            if is_lowered(kernel)
            else 0.0
            for kernel in kernels
        ]

    def _names(self) -> tuple[str, ...]:
        return (*super()._names(), self.name)

    def _limit(self) -> float:
        """The measure that stands for the budget: density for `sparsity`."""
        return 1.0 - self.target if self.name == "sparsity" else self.target

    def _measure(self, found: list[KernelCost]) -> float:
        return float(costs.MEASURES[self.name](found))

    def _is_met(self, found: list[KernelCost]) -> bool:
        limit = self._limit()
        slack = max(_TOLERANCES[self.name], 0.01 * limit)
        return self._measure(found) <= limit + slack

    def _value(self, found: list[KernelCost]) -> float:
        """The measure under the name it is given by."""
        value = self._measure(found)
        return 1.0 - value if self.name == "sparsity" else value

    def _reason(self, now: list[KernelCost]) -> str:
        """Why the budget was missed, and what to do."""
        return reason_of_miss(
            self.model,
            now,
            self._min_densities(),
            value=self._value,
            is_met=self._is_met,
            num_steps=self._num_steps,
            last=list(self._epochs.values())[-1],
        )

    def _require_channels(self) -> None:
        """Raises a ValueError where no channel can be removed."""
        if self.name == "relative_macs" and self.model.channel_gates is None:
            raise ValueError(
                "`relative_macs` falls with channels alone. Received: a model "
                "that keeps all. Call `quantize_model(..., "
                "channel_multiple=8)`, or 16 for phones."
            )

    def _require_reachable(self, least: list[KernelCost]) -> None:
        """Raises a ValueError for a budget below all that channels allow."""
        reached = self._measure(least)
        if self.name == "relative_macs" and self.target < reached:
            raise ValueError(
                f"`relative_macs` cannot be below {reached:.4g} here: each "
                "class of channels keeps a quarter, in multiples of "
                f"{self.model.channel_multiple}"
                f"{words_on_frozen(self.model.channel_gates)}. "
                f"`codeq_keras.report` names all that stay. Received: "
                f"relative_macs={self.target}. Allow more, train more "
                "layers, or make `channel_multiple` smaller."
            )
