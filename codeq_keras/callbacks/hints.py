"""What a budget says when its training begins, beside the progress bar."""

from typing import Any

import keras

from codeq_keras.model import QuantizedModel

# Callbacks of Keras that lower the rate.
_SCHEDULERS = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
)


def say_start(
    model: Any,
    budget: str,
    bits: int | None,
    *,
    is_learned: bool,
    verbose: int | None,
) -> None:
    """Prints the bits that were chosen, and what a constant rate costs."""
    if not verbose:
        return
    lines = []
    if bits is not None:
        choice = f"{bits} bits"
        if is_learned:
            choice = f"to learn the bits, from {bits},"
        lines.append(f"{budget} chose {choice} for bit_width='auto'.")
    if isinstance(model, QuantizedModel) and _has_constant_rate(model):
        lines.append(
            "The learning rate is constant: weights settle better on one that "
            "falls, such as keras.optimizers.schedules.CosineDecay(rate, "
            "epochs * steps_per_epoch)."
        )
    for line in lines:
        print(line)  # noqa: T201  As Keras's callbacks do.


def _has_constant_rate(model: QuantizedModel) -> bool:
    try:
        rate = model.optimizer.get_config().get("learning_rate")
    except NotImplementedError:  # A schedule of the user's own.
        return False
    is_constant = isinstance(rate, float | int)
    return is_constant and not any(
        isinstance(callback, _SCHEDULERS) for callback in model.fit_callbacks
    )
