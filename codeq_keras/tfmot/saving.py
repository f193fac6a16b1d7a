"""quantize_scope and load_model: the formats that TFMOT models survive."""

import os
from pathlib import Path
from typing import Any

import tf_keras
from tensorflow_model_optimization.quantization import keras as tfmot

from codeq_keras.tfmot.quantize_config import DeadZoneQuantizeConfig
from codeq_keras.tfmot.weight_quantizer import DeadZoneWeightQuantizer


def quantize_scope(*custom_objects: dict[str, Any]) -> Any:
    """Returns TFMOT's scope for loading and cloning, with our classes.

    Args:
        *custom_objects: Maps from name to class, for layers of your own.

    Returns:
        A context manager.

    Example:

    >>> with quantize_scope():
    ...     config = tf_keras.utils.get_registered_object(
    ...         "DeadZoneQuantizeConfig"
    ...     )
    >>> config.__name__
    'DeadZoneQuantizeConfig'
    """
    ours = {
        kind.__name__: kind
        for kind in (DeadZoneQuantizeConfig, DeadZoneWeightQuantizer)
    }
    return tfmot.quantize_scope(*custom_objects, ours)


def load_model(path: str | os.PathLike[str]) -> tf_keras.Model:
    """Loads a model that was saved after `quantize_apply`.

    Args:
        path: An H5 file (`model.save("model.h5")`) or a SavedModel folder
            (`model.save("folder", save_format="tf")`).

    Returns:
        The model, with the same outputs and codes, ready to train on.

    Raises:
        ValueError: If `path` is in the format `.keras` or `.weights.h5`,
            which TensorFlow Model Optimization cannot read back, or does not
            exist.

    Example:

    >>> load_model("model.keras")
    Traceback (most recent call last):
        ...
    ValueError: `path` must be an H5 file or a SavedModel folder. Received: 'model.keras'. TensorFlow Model Optimization cannot read its models back from '.keras' and '.weights.h5' files. Save with `model.save("model.h5")` or `model.save("model", save_format="tf")`.
    """  # noqa: E501
    path = Path(path)
    if path.suffix == ".keras" or path.name.endswith(".weights.h5"):
        raise ValueError(
            "`path` must be an H5 file or a SavedModel folder. Received: "
            f"{str(path)!r}. TensorFlow Model Optimization cannot read its "
            "models back from '.keras' and '.weights.h5' files. Save with "
            '`model.save("model.h5")` or `model.save("model", '
            'save_format="tf")`.'
        )
    if not path.exists():
        raise ValueError(
            "`path` must exist. Received: "
            f"{str(path)!r}. Save with `model.save`."
        )
    with quantize_scope():
        return tf_keras.models.load_model(path)
