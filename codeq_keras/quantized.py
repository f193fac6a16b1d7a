"""HasQuantizers: what reports and callbacks read of a model."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from codeq_keras.architecture.kernels import Kernel
from codeq_keras.quantizers.dead_zone import DeadZoneQuantizer
from codeq_keras.training.schedule import TrainingSchedule


@runtime_checkable
class HasQuantizers(Protocol):
    """What reports and callbacks read; `codeq_keras.tfmot` has it too.

    Attributes:
        kernels: The kernels of a model.
        quantizers: One per kernel; None where it was left in float.
        schedule: Counts the training steps.
    """

    kernels: Sequence[Kernel]
    quantizers: Sequence[DeadZoneQuantizer | None]
    schedule: TrainingSchedule


def check_quantized(qmodel: Any) -> None:
    """Raises a ValueError unless `qmodel` comes from `quantize_model`.

    Args:
        qmodel: Any object.
    """
    if not isinstance(qmodel, HasQuantizers):
        raise ValueError(
            "Expected a model returned by `codeq_keras.quantize_model`. "
            f"Received: an instance of {type(qmodel).__name__}. Call "
            "`quantize_model(model)` and train the result."
        )
