"""The protocol between a quantized model, its reports and its callbacks."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.architecture.copying import require_no_path
from codeq_keras.architecture.kernels import Kernel
from codeq_keras.quantizers.channel_gates import ChannelGates
from codeq_keras.quantizers.kernels import QuantizedKernel
from codeq_keras.training.regularizer import CompressionRegularizer
from codeq_keras.training.schedule import TrainingSchedule


@runtime_checkable
class HasQuantizers(Protocol):
    """A quantized model to reports and callbacks, from TFMOT or from here.

    Attributes:
        regularizer: Holds the budget of a training.
        activation_bit_width: Bits of the activations; None if in float.
        activation_graph: Their quantizers; None if in float.
        channel_gates: They remove channels; None if all stay.
    """

    regularizer: CompressionRegularizer
    activation_bit_width: int | None
    activation_graph: ActivationGraph | None
    channel_gates: ChannelGates | None

    @property
    def kernels(self) -> Sequence[Kernel]:
        """The kernels of the model."""

    @property
    def schedule(self) -> TrainingSchedule:
        """Counts the training steps."""

    @property
    def quantized_kernels(self) -> tuple[QuantizedKernel, ...]:
        """The kernels that have a quantizer."""

    def make_train_function(self, force: bool = False) -> Any:
        """Traces the training step anew."""


def require_quantized(qmodel: Any) -> None:
    """Raises a ValueError unless `qmodel` comes from `quantize_model`."""
    require_no_path(qmodel)
    if not isinstance(qmodel, HasQuantizers):
        raise ValueError(
            "Expected a model returned by `codeq_keras.quantize_model`. "
            f"Received: an instance of {type(qmodel).__name__}. Call "
            "`quantize_model(model)` and train the result."
        )
