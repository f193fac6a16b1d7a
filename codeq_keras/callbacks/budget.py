"""CompressionBudget: trains a quantized model to one number."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

from codeq_keras import costs
from codeq_keras.architecture.finite import require_finite
from codeq_keras.callbacks.file_bytes import FileBytes
from codeq_keras.callbacks.fit_callback import FitCallback
from codeq_keras.callbacks.hints import say_start
from codeq_keras.callbacks.logger import CompressionLogger
from codeq_keras.callbacks.misses import (
    early_checkpoints,
    is_lowered,
    least_costs,
    least_densities,
    reason_of_miss,
    words_on_sparse,
)
from codeq_keras.callbacks.refusals import (
    FRACTION,
    out_of_reach,
    require_channels,
    require_max_sparsity,
    require_own_rate,
    require_reachable_macs,
)
from codeq_keras.costs import FLOAT_BITS, KernelCost, deployed_costs
from codeq_keras.model import QuantizedModel
from codeq_keras.ops.intervals import Interval, require_number
from codeq_keras.quantizers.kernels import (
    move_zeros,
    release_zeros,
    save_zeros,
    states_of,
)
from codeq_keras.training.auto import choose_bit_width
from codeq_keras.training.fitting import end_training

_RANGES = {
    "relative_bops": Interval(0, 1),
    "relative_macs": Interval(0, 1),
    "sparsity": FRACTION,
    "bits_per_weight": Interval(0, FLOAT_BITS),
    "size_bytes": Interval(0),
    "file_bytes": Interval(0),
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
        file_bytes: Bytes of the file that `tflite_export.export` writes, > 0.
            Converts the model when the training begins, and measures its file
            in between: it ends at or below the budget, within 3 % of it. Needs
            the TensorFlow backend.
        target: The device of that file, as in `export`; `"litert"` by
            default. Ethos-U counts the bytes of the compiled file.
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
        file_bytes: float | None = None,
        target: str | None = None,
        max_sparsity: float | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        budgets = {
            "relative_bops": relative_bops,
            "relative_macs": relative_macs,
            "sparsity": sparsity,
            "bits_per_weight": bits_per_weight,
            "size_bytes": size_bytes,
            "file_bytes": file_bytes,
        }
        given = {k: v for k, v in budgets.items() if v is not None}
        if len(given) != 1:
            raise ValueError(
                f"Exactly one of {list(budgets)} must be given. "
                f"Received: {given}."
            )
        [(self.name, self.target)] = given.items()
        require_number(self.name, self.target, _RANGES[self.name])
        if target is not None and file_bytes is None:
            raise ValueError(
                "`target` is the device of `file_bytes`. Received: "
                f"target={target!r}, {self.name}={self.target}. Leave it out."
            )
        self.device = target or "litert"
        self._file: FileBytes | None = None
        self.max_sparsity = max_sparsity
        require_max_sparsity(self.name, self.target, max_sparsity)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Switches the budget penalty on."""
        super().on_train_begin(logs)
        kernels, self._file = self.model.kernels, None
        require_finite(kernels)
        found = deployed_costs(kernels)
        self._require_lowered(found)
        min_densities = self._min_densities()
        if (words := costs.not_covered(kernels)) is not None:
            warnings.warn(f"CompressionBudget: {words}", stacklevel=2)
        bits = self._choose_bits(found, min_densities)
        budget = f"CompressionBudget({self.name}={self.target:g})"
        say_start(
            self.model,
            budget,
            bits,
            is_learned=bits == 2 and self._file is None,
            verbose=self.params.get("verbose"),
        )
        now = deployed_costs(kernels)
        self._num_steps, self._epochs = 0, dict[int, list[KernelCost]]()
        least = least_costs(kernels, now, min_densities)
        if self.name == "relative_macs":
            require_reachable_macs(
                self.model, self.target, self._measure(least)
            )
        start, limit = self._measure(now), self._limit()
        if self._file is None and self._measure(least) > limit:
            raise out_of_reach(self.name, self.target, self._value(least))
        if self._file is not None:
            start, limit = self._file.estimate(now), self._file.aim
        self.model.regularizer.set_budget(
            self.name,
            start=max(start, limit),
            target=limit,
            min_densities=min_densities if any(min_densities) else (),
            rates=() if self._file is None else self._file.rates,
        )
        self.model.make_train_function(force=True)

    def _require_lowered(self, found: list[KernelCost]) -> None:
        """Raises a ValueError where the budget has nothing to lower."""
        kernels = self.model.kernels
        require_own_rate(self.model)
        is_of_macs = self.name == "relative_macs"
        if is_of_macs:
            require_channels(self.model)
        if self.name in ("relative_bops", "relative_macs"):
            costs.require_macs(self.name, kernels)
        is_lower = any(map(is_lowered, kernels)) or is_of_macs
        if self.name in costs.MEASURES:
            is_lower &= self._measure(found) > 0
        if not is_lower:
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

    def _choose_bits(
        self, found: list[KernelCost], min_densities: list[float]
    ) -> int | None:
        """Chooses the bits of `"auto"`; measures the file, if it counts."""
        kernels = self.model.kernels
        is_of_file = self.name == "file_bytes"
        for state in states_of(kernels):
            # More bits than are chosen would only make the file larger.
            state.holds_bits = is_of_file and state.config.bit_width == "auto"
        if not is_of_file:
            return choose_bit_width(kernels, found, self.name, self._limit())
        limit = int(self.target)
        self._file = FileBytes(
            self.model, limit, self.device, found, min_densities
        )
        return self._file.auto_bits

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Measures the file now and then."""
        if self._file is not None:
            progress = float(self.model.schedule.progress())
            if self._file.is_due(progress):
                self._follow(self._file, progress)

    def _follow(self, file: FileBytes, progress: float) -> int:
        reached = file.measure(progress)
        self.model.regularizer.move_target(file.aim)
        return reached

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
            progress = self.model.schedule.progress()
            penalty = self.model.regularizer.budget_penalty(
                self.model.kernels, progress=progress
            )
            logs["budget_penalty"] = float(penalty)
            if self._file is not None:
                logs["file_bytes"] = self._follow(self._file, float(progress))
        # Now: a callback that restores weights restores the counter as well.
        self._num_steps = int(self.model.schedule.steps_done())
        found = self._epochs[epoch] = deployed_costs(self.model.kernels)
        if not any(math.isnan(cost.density) for cost in found):
            zeros = [1 - cost.density for cost in found]
            save_zeros(self.model.kernels, zeros)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Switches the penalty off, where `fit` does not."""
        if not isinstance(self.model, QuantizedModel):
            end_training(self.model)
        super().on_train_end(logs)

    def on_fit_end(self) -> None:
        """Warns if the budget was missed, by now or by a restored epoch."""
        now = deployed_costs(self.model.kernels)
        if self._file is not None:
            self._file.measure(1.0)
        self._warn_of_layers(now)
        if self._is_met(now):
            self._warn_of_checkpoints()
            return
        warnings.warn(
            f"CompressionBudget({self.name}={self.target:g}) was missed: "
            f"{self.name} is {self._value(now):.6g}. "
            f"{self._reason()}",
            stacklevel=2,
        )

    def _warn_of_checkpoints(self) -> None:
        """Warns of files of an epoch from before the budget was met."""
        for callback, epoch in early_checkpoints(self.model, self._epochs):
            found = self._epochs[epoch]
            if not self._is_met(found):
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
        exceeded = words_on_sparse(
            self.model.kernels,
            now,
            self._min_densities(),
            slack=_TOLERANCES["sparsity"],
        )
        if exceeded:
            warnings.warn(
                f"`max_sparsity={self.max_sparsity}` was exceeded: "
                f"{exceeded}. Weights that round to zero are no "
                "matter of the budget: give the kernel more bits, or the grid "
                "'dead_zone'. Otherwise train for more steps.",
                stacklevel=3,
            )

    def _min_densities(self) -> list[float]:
        return least_densities(self.model.kernels, self.max_sparsity)

    def _names(self) -> tuple[str, ...]:
        return (*super()._names(), self.name)

    def _limit(self) -> float:
        """The measure that stands for the budget: density for `sparsity`."""
        return 1.0 - self.target if self.name == "sparsity" else self.target

    def _measure(self, found: list[KernelCost]) -> float:
        if self._file is not None:
            return self._file.of(found)
        return float(costs.MEASURES[self.name](found))

    def _is_met(self, found: list[KernelCost]) -> bool:
        limit = self._limit()
        if self._file is not None:
            return self._measure(found) <= limit
        slack = max(_TOLERANCES[self.name], 0.01 * limit)
        return self._measure(found) <= limit + slack

    def _value(self, found: list[KernelCost]) -> float:
        """The measure under the name it is given by."""
        value = self._measure(found)
        return 1.0 - value if self.name == "sparsity" else value

    def _reason(self) -> str:
        """Why the budget was missed, and what to do."""
        return reason_of_miss(
            self.model,
            is_met=self._is_met,
            num_steps=self._num_steps,
            last=list(self._epochs.values())[-1],
        )
