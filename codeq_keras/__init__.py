"""Prunes and quantizes a Keras 3 model in one `model.fit`.

Modules: `ops` (pure functions), `quantizer` and `logit` (trained state),
`config` (settings and rules), `kernels` (what there is to quantize), `model`
(`quantize_model` and its inverse), `schedule` and `regularizer` (what drives
the training), `callbacks` (budget and logs), `metrics` and `report`.
"""

from codeq_keras import ops
from codeq_keras.config import CoDeQConfig
from codeq_keras.model import (
    QuantizedModel,
    quantize_model,
    quantized_weights,
    strip_quantizers,
)
from codeq_keras.quantizer import DeadZoneQuantizer, QuantizedWeight
from codeq_keras.regularizer import CompressionRegularizer

__all__ = [
    "CoDeQConfig",
    "CompressionRegularizer",
    "DeadZoneQuantizer",
    "QuantizedModel",
    "QuantizedWeight",
    "ops",
    "quantize_model",
    "quantized_weights",
    "strip_quantizers",
]
