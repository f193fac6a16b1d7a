"""CoDeQ inside TensorFlow Model Optimization's quantization API.

Importing this package imports TensorFlow Model Optimization, which sets
`TF_USE_LEGACY_KERAS=1` in the process: `tf.keras` may then mean `tf_keras`.
`import keras` stays Keras 3. Nothing in `codeq_keras` imports it for you.
"""

import keras

from codeq_keras.extras import missing_extra

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "`codeq_keras.tfmot` runs Keras 3 operations inside tf_keras layers "
        "and needs Keras on the TensorFlow backend. Received: "
        f"{keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow."
    )

try:
    import tensorflow_model_optimization as _tfmot  # noqa: F401
except ImportError as error:
    raise missing_extra(
        "`codeq_keras.tfmot`", "tensorflow-model-optimization", "tfmot"
    ) from error

from codeq_keras.tfmot.callbacks import CompressionBudget, CompressionLogger
from codeq_keras.tfmot.quantize_config import DeadZoneQuantizeConfig
from codeq_keras.tfmot.saving import load_model, quantize_scope
from codeq_keras.tfmot.scheme import CoDeQScheme
from codeq_keras.tfmot.translation.back import from_tf_keras
from codeq_keras.tfmot.translation.model import to_tf_keras
from codeq_keras.tfmot.view import QuantizedView, quantized_weights, report
from codeq_keras.tfmot.weight_quantizer import DeadZoneWeightQuantizer

__all__ = [
    "CoDeQScheme",
    "CompressionBudget",
    "CompressionLogger",
    "DeadZoneQuantizeConfig",
    "DeadZoneWeightQuantizer",
    "QuantizedView",
    "from_tf_keras",
    "load_model",
    "quantize_scope",
    "quantized_weights",
    "report",
    "to_tf_keras",
]
