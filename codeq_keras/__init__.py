"""Prunes and quantizes a Keras 3 model in one `model.fit`."""

from codeq_keras.extras import missing_extra

try:
    import keras as _keras  # noqa: F401 So that a missing backend is told.
except ImportError as error:
    missing = (error.name or "").partition(".")[0]
    if missing not in ("keras", "tensorflow", "jax"):
        raise
    raise missing_extra(
        "`import codeq_keras`",
        f"Keras with a backend, here {missing}",
        "tensorflow",
        "jax",
    ) from error

from codeq_keras import ops
from codeq_keras.activations.quantizer import (
    ActivationQuantizer,
    ActivationRange,
)
from codeq_keras.annotate import (
    quantize_annotate_layer,
    quantize_annotate_model,
    quantize_apply,
)
from codeq_keras.callbacks.batch_norm import (
    BatchNormReestimation,
    reestimate_batch_norm,
)
from codeq_keras.callbacks.budget import CompressionBudget
from codeq_keras.callbacks.distillation import Distillation
from codeq_keras.callbacks.logger import CompressionLogger
from codeq_keras.callbacks.pareto import ParetoCheckpoint, ParetoPoint
from codeq_keras.config import CoDeQConfig
from codeq_keras.deployment import (
    activation_ranges,
    calibrate_activations,
    quantized_weights,
    remove_channels,
    strip_quantizers,
)
from codeq_keras.model import QuantizedModel, quantize_model
from codeq_keras.post_training.compress import compress_post_training
from codeq_keras.quantizers.dead_zone import DeadZoneQuantizer, QuantizedWeight
from codeq_keras.quantizers.kernels import KernelQuantizer, QuantizedKernel
from codeq_keras.reports.compression_report import CompressionReport
from codeq_keras.reports.report import report
from codeq_keras.training.regularizer import CompressionRegularizer

__all__ = [
    "ActivationQuantizer",
    "ActivationRange",
    "BatchNormReestimation",
    "CoDeQConfig",
    "CompressionBudget",
    "CompressionLogger",
    "CompressionRegularizer",
    "CompressionReport",
    "DeadZoneQuantizer",
    "Distillation",
    "KernelQuantizer",
    "ParetoCheckpoint",
    "ParetoPoint",
    "QuantizedKernel",
    "QuantizedModel",
    "QuantizedWeight",
    "activation_ranges",
    "calibrate_activations",
    "compress_post_training",
    "ops",
    "quantize_annotate_layer",
    "quantize_annotate_model",
    "quantize_apply",
    "quantize_model",
    "quantized_weights",
    "reestimate_batch_norm",
    "remove_channels",
    "report",
    "strip_quantizers",
]
