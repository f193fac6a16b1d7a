"""`check`: says if a model or a file will run on a target."""

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export.format.kinds import read_tflite
from tflite_export.targets.findings import CheckReport, Finding
from tflite_export.targets.target import Target, find_target

if TYPE_CHECKING:
    import keras

    from tflite_export.trained_model import TrainedModel

_NUM_REASONS = 3
_SPARSITIES = (0.0, 0.5, 0.8, 0.9)
_STATISTICS = ("gamma", "beta", "moving_mean", "moving_variance")


def check(
    model_or_path: "keras.Model | str | os.PathLike[str]",
    *,
    target: str = "litert",
) -> CheckReport:
    """Says where a model or a file will run on a target, and what blocks it.

    A model is converted with random inputs, so its accuracy does not matter.
    Call it before training, with or without quantizers. It also names the
    channels that a `channel_multiple` could not remove, and why. And it gives
    the bytes to expect with 0, 50, 80 and 90 % zeros in each kernel.

    Args:
        model_or_path: A Keras model on the TensorFlow backend, or the path of
            a `.tflite` file of any origin.
        target: The device, as in `export`.

    Returns:
        `CheckReport`; print it.

    Raises:
        ImportError: If the tool of the target is not installed.
        ValueError: If `target` is unknown, or the file is damaged.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> report = check(model)
    >>> report.is_ok, report.placement
    (True, {'CPU': {'FULLY_CONNECTED': 1}})
    """
    device = find_target(target)
    if isinstance(model_or_path, str | os.PathLike):
        return device.check(read_tflite(model_or_path))
    qmodel, trained = _untrained(model_or_path)
    if device.weighs_codes:
        report = _checked(device, qmodel, trained)
    else:
        report = device.check_model(trained)
    remedy = "Zeros anywhere cost less accuracy: leave out the pattern."
    notes = [
        Finding("`sparsity_pattern`", note, remedy, is_blocking=False)
        for note in trained.pattern_notes(device.title, device.skips_pattern)
    ]
    notes += _channels(trained.plain)
    return dataclasses.replace(report, findings=(*report.findings, *notes))


def _channels(model: Any) -> list[Finding]:
    """A note on channels that no budget can remove, but at both ends."""
    from codeq_keras.deployment import find_channels

    classes = find_channels(model).classes
    frozen = [each for each in classes if each.frozen and not each.is_at_end]
    if not frozen:
        return []
    reasons = list(dict.fromkeys(str(each.frozen) for each in frozen))
    shown = "; ".join(reasons[:_NUM_REASONS])
    if len(reasons) > _NUM_REASONS:
        shown += f" and {len(reasons) - _NUM_REASONS} more reasons"
    return [
        Finding(
            f"{len(frozen)} of {len(classes)} classes of channels",
            f"would keep all under `channel_multiple`: {shown}.",
            "The others shrink.",
            is_blocking=False,
        )
    ]


def _checked(
    device: Target, qmodel: Any, trained: "TrainedModel"
) -> CheckReport:
    """The report on a model, with the bytes of its file at some zeros."""
    from codeq_keras.deployment import expected_codes
    from tflite_export.targets.template import FileTemplate

    try:
        template = FileTemplate(trained, device)
    except (ValueError, RuntimeError) as error:
        return device.refusal(error)
    report = device.check_untrained(template.dense())
    if not report.is_ok:
        return report
    facts: dict[str, float] = {
        f"bytes with {sparsity:.0%} zeros": template.num_bytes(
            expected_codes(qmodel, sparsity)
        )
        for sparsity in _SPARSITIES
    }
    if len(set(facts.values())) == 1:
        facts = {"bytes": facts.popitem()[1]}
    return dataclasses.replace(report, facts={**report.facts, **facts})


def _untrained(model: Any) -> "tuple[Any, TrainedModel]":
    """The quantized model, and that with statistics as after a training."""
    # Imported here: checking a file must not import Keras.
    import codeq_keras
    from tflite_export.trained_model import read_plain

    if not isinstance(model, codeq_keras.QuantizedModel):
        model = codeq_keras.quantize_model(model)
    plain = codeq_keras.strip_quantizers(model)
    # Untrained statistics would fold to a gain of 1.
    rng = np.random.default_rng(0)
    for variable in plain.weights:
        if variable.name in _STATISTICS:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model, read_plain(plain, codeq_keras.quantized_weights(model))
