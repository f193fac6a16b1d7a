"""`check`: what of a model will run on a target, before it is trained."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export import targets
from tflite_export.targets import edgetpu, litert
from tflite_export.targets.ethos_u import target as ethos_u
from tflite_export.targets.findings import CheckReport, Finding
from tflite_export.targets.litert_sparse import target as litert_sparse
from tflite_export.targets.tflm import target as tflm

if TYPE_CHECKING:
    import keras

NUM_SAMPLES = 8
_STATISTICS = ("gamma", "beta", "moving_mean", "moving_variance")


def check(model: "keras.Model", *, target: str = "litert") -> CheckReport:
    """Says what of a model will run on a target, what blocks it, and why.

    The model is converted with random inputs, so its accuracy does not matter:
    call it before training, with or without quantizers.

    Args:
        model: A Keras model on the TensorFlow backend.
        target: The device, as in `export`.

    Returns:
        `CheckReport`; print it.

    Raises:
        ImportError: If the target's tool is not installed.
        ValueError: If `target` is unknown.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> print(check(model))
    litert: ok
    CPU: 1 FULLY_CONNECTED
    """
    # Only here: the check of a file loads neither Keras nor TensorFlow.
    import codeq_keras
    from tflite_export.conversion.exact import (
        convert_exactly,
        convert_for_sparse_kernels,
    )
    from tflite_export.samples import model_inputs, random_samples

    targets.require_target(target)
    if not isinstance(model, codeq_keras.QuantizedModel):
        model = codeq_keras.quantize_model(model)
    trained = codeq_keras.quantized_weights(model)
    stripped = codeq_keras.strip_quantizers(model)
    _unsettle_batch_norms(stripped)
    inputs = model_inputs(stripped)
    samples = random_samples(inputs, NUM_SAMPLES)
    try:
        if target == litert_sparse.TARGET:
            file, _ = convert_for_sparse_kernels(stripped, inputs, samples)
            return litert_sparse.check_model_file(file.to_bytes())
        file, _ = convert_exactly(stripped, trained, inputs, samples)
        if target == "tflm":
            tflm.write_convolutions(file)
    except (ValueError, RuntimeError) as error:
        finding = Finding("export", str(error), "")
        return CheckReport(target, {}, (finding,), {})
    return check_bytes(file.to_bytes(), target=target)


def check_file(
    path: str | os.PathLike[str], *, target: str = "litert"
) -> CheckReport:
    """Says what of a `.tflite` file of any origin would run on a target.

    Args:
        path: The file.
        target: The device, as in `export`.

    Returns:
        `CheckReport`.

    Raises:
        ImportError: If the target's tool is not installed.
        ValueError: If the file is damaged, or `target` is unknown.
    """
    targets.require_target(target)
    return check_bytes(Path(path).read_bytes(), target=target)


def check_bytes(data: bytes, *, target: str) -> CheckReport:
    """Does the work of `check_file` for the bytes of a file."""
    size = targets.accelerator(target)
    if size is not None:
        return ethos_u.check_file(data, target=target, accelerator=size)
    by_name: dict[str, Any] = {
        "litert": litert.check_file,
        "litert-sparse": litert_sparse.check_file,
        "tflm": tflm.check_file,
        "edgetpu": edgetpu.check_file,
    }
    report: CheckReport = by_name[target](data)
    return report


def _unsettle_batch_norms(stripped: "keras.Model") -> None:
    """Gives statistics as training would; untrained ones fold into nothing."""
    rng = np.random.default_rng(0)
    for variable in stripped.weights:
        if variable.name in _STATISTICS:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
