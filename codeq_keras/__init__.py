"""Prunes and quantizes a Keras 3 model in one `model.fit`.

Modules: `ops` and `level_grids` (pure functions), `quantizer`,
`quantizer_state` and `logit` (trained state), `config` (settings and rules),
`kernels` (what there is to quantize), `model` (`quantize_model`), `deployed`
(its inverse, and the integers), `annotate` (TFMOT's vocabulary for it),
`graph`, `expansion`, `placement`, `activation` and `activation_graph`
(activations: a model as a list of calls, where they are quantized, and how),
`schedule`, `regularizer` and
`weight_decay` (what drives the training), `has_quantizers` (what callbacks and
reports read), `callbacks` (budget and logs), `batch_norm`, `distillation` and
`pareto` (what a training may add), and `metrics`,
`report` and `plot` (what came of it).
"""

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
from codeq_keras.callbacks.budget import CompressionBudget, CompressionLogger
from codeq_keras.callbacks.distillation import Distillation
from codeq_keras.callbacks.pareto import ParetoCheckpoint, ParetoPoint
from codeq_keras.config import CoDeQConfig
from codeq_keras.deployment import (
    activation_ranges,
    quantized_weights,
    strip_quantizers,
)
from codeq_keras.model import QuantizedModel, quantize_model
from codeq_keras.quantizers.dead_zone import DeadZoneQuantizer, QuantizedWeight
from codeq_keras.reports.report import CompressionReport, report
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
    "ParetoCheckpoint",
    "ParetoPoint",
    "QuantizedModel",
    "QuantizedWeight",
    "activation_ranges",
    "ops",
    "quantize_annotate_layer",
    "quantize_annotate_model",
    "quantize_apply",
    "quantize_model",
    "quantized_weights",
    "reestimate_batch_norm",
    "report",
    "strip_quantizers",
]
