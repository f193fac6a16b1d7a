"""The least that a budget can reach, and why it was missed."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from codeq_keras.architecture.finite import REMEDY, words_on_divergence
from codeq_keras.architecture.kernels import Kernel
from codeq_keras.architecture.listing import first_few
from codeq_keras.config import first_match, require_patterns
from codeq_keras.costs import KernelCost
from codeq_keras.quantizers.dead_zone import DeadZoneQuantizer
from codeq_keras.quantizers.kernels import QuantizedKernel, gates_of

# Training steps that a budget takes.
_MIN_STEPS = 300


def is_lowered(kernel: Kernel) -> bool:
    """Whether a budget lowers a kernel: quantized, and in training."""
    is_quantized = isinstance(kernel, QuantizedKernel)
    return is_quantized and bool(kernel.variable.trainable)


def words_on_frozen(gates: Any) -> str:
    """The kernels whose channels stay as they are not in training."""
    paths = [gates.frozen_by(number) for number in gates.numbers]
    found = list(dict.fromkeys(path for path in paths if path is not None))
    if not found:
        return ""
    named = first_few([repr(path) for path in found])
    return f", and those of {named}, not trainable, keep all"


def least_densities(
    kernels: Sequence[Any], max_sparsity: float | Mapping[str, float] | None
) -> list[float]:
    """The least density of each kernel; 0 where there is no limit."""
    limits = max_sparsity
    if limits is None:
        limits = {}
    elif not isinstance(limits, Mapping):
        limits = {"": limits}
    require_patterns("max_sparsity", limits, [k.path for k in kernels])
    return [
        1.0 - first_match(kernel.path, limits, 1.0)
        if is_lowered(kernel)
        else 0.0
        for kernel in kernels
    ]


def words_on_sparse(
    kernels: Sequence[Any],
    now: Sequence[KernelCost],
    least: Sequence[float],
    *,
    slack: float,
) -> str:
    """Names the kernels that are below their least density; "" if none is."""
    named = [
        f"{kernel.path!r} has {1 - cost.density / cost.kept:.1%} zeros"
        for kernel, cost, low in zip(kernels, now, least, strict=True)
        # A single weight can be more than the slack.
        if cost.density / cost.kept
        < low - max(slack, 1 / (cost.kept * kernel.num_weights))
    ]
    return "; ".join(named)


def least_costs(
    kernels: Sequence[Any],
    found: Sequence[KernelCost],
    densities: Sequence[float],
) -> list[KernelCost]:
    """The costs at the fewest bits and channels, and these densities.

    A density is that of what removed channels leave, of one weight at least.
    """
    result = []
    least = [part for gates in gates_of(kernels) for part in gates.least_kept()]
    for cost, density, kernel in zip(found, densities, kernels, strict=True):
        kept = cost.kept
        if kernel.gate is not None:
            kept = least[kernel.gate.index]
        inside, bits = cost.density / cost.kept, cost.bit_width
        if is_lowered(kernel):
            inside = max(density, 1.0 / kernel.num_weights)
            quantizer = kernel.quantizer
            if isinstance(quantizer, DeadZoneQuantizer):
                bits = quantizer.least_bit_width
            elif quantizer.config.bit_width == "learned":
                bits = quantizer.config.min_bit_width
        cost = dataclasses.replace(
            cost, density=inside * kept, bit_width=bits, kept=kept
        )
        result.append(cost)
    return result


def early_checkpoints(
    model: Any, epochs: Iterable[int]
) -> Iterator[tuple[keras.callbacks.ModelCheckpoint, int]]:
    """Yields callbacks that keep the best epoch, each with that epoch."""
    for callback in getattr(model, "fit_callbacks", ()):
        is_kept = isinstance(callback, keras.callbacks.ModelCheckpoint)
        if not is_kept or not callback.save_best_only:
            continue
        values = model.history.history.get(callback.monitor, [])
        for epoch, value in zip(epochs, values, strict=False):
            if value == callback.best:
                yield callback, epoch
                break


def reason_of_miss(
    model: Any,
    *,
    is_met: Callable[[list[KernelCost]], bool],
    num_steps: int,
    last: list[KernelCost],
) -> str:
    """Says why a budget was missed, and what to do.

    `is_met` is of a list of costs; `num_steps` is the length of the training,
    and `last` has the costs at its end.
    """
    if words := words_on_divergence(model.kernels):
        return f"The training diverged: {words}. {REMEDY}"
    # The counter of steps is restored with the weights.
    is_restored = model.schedule.steps_done() < num_steps
    if is_restored and is_met(last):
        return (
            "The training had met it; then a callback restored an earlier "
            "epoch. Let callbacks that pick an epoch start in the second "
            "half of the training, as `EarlyStopping(start_from_epoch=)`."
        )
    if num_steps < _MIN_STEPS:
        return (
            f"The training had {num_steps} steps; a budget takes "
            f"about {_MIN_STEPS}. Train for more, or allow more."
        )
    return (
        "The loss of the task weighed more. Train for more steps, or allow "
        "more."
    )
