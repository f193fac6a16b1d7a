"""output_snrs: what rounding each kernel alone does to a model's outputs."""

import functools
from typing import Any

import keras
import numpy as np

from codeq_keras.activations.calibration import read_batches
from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.architecture.scoped import run_scoped
from codeq_keras.model import QuantizedModel
from codeq_keras.quantizers.deployed import deployed_values
from codeq_keras.training.batch_norm import (
    statistics_of,
    trainable_batch_norms,
)

# More change no rank.
MAX_SAMPLES = 256

# Variables with their values, by the `id` of the variable.
Values = dict[int, tuple[keras.Variable, Any]]


def output_snrs(qmodel: Any, samples: Any) -> dict[str, float | None]:
    """Returns the SNR of the outputs with one kernel quantized, in decibels.

    By path of the kernel. The others have their latent weights, activations
    are in float, and BatchNorm has the statistics of the samples, as after a
    `fit`. None where a kernel changes nothing.
    """
    if not isinstance(qmodel, QuantizedModel):
        raise ValueError(
            "`samples` need a model from `codeq_keras.quantize_model`. "
            f"Received: an instance of {type(qmodel).__name__}. Leave them out."
        )
    inputs = _one_batch(qmodel, samples)
    values = {id(v): (v, x) for v, x in deployed_values(qmodel.kernels, None)}
    for kernel in qmodel.quantized_kernels:
        values[id(kernel.variable)] = (kernel.variable, kernel.weights())
    reference = _outputs(qmodel, inputs, values)
    found = {}
    for kernel in qmodel.quantized_kernels:
        one = {id(kernel.variable): (kernel.variable, kernel.values())}
        found[kernel.path] = _snr_db(
            reference, _outputs(qmodel, inputs, values | one)
        )
    return found


def _one_batch(qmodel: QuantizedModel, samples: Any) -> Any:
    graph = qmodel.activation_graph or ActivationGraph(
        qmodel.latent_model, rounds=False
    )
    batches, count = [], 0
    for batch in read_batches(graph, samples):
        batches.append(batch)
        count += len(keras.tree.flatten(batch)[0])
        if count >= MAX_SAMPLES:
            break
    return keras.tree.map_structure(
        lambda *arrays: np.concatenate(arrays)[:MAX_SAMPLES], *batches
    )


def _outputs(
    qmodel: QuantizedModel, inputs: Any, values: Values
) -> list[np.ndarray]:
    model, pairs = qmodel.latent_model, list(values.values())
    if trainable_batch_norms(model):
        pairs += statistics_of(model, model, pairs, [inputs])
    run = functools.partial(model, inputs, training=False)
    outputs = run_scoped(run, pairs).outputs
    arrays = map(keras.ops.convert_to_numpy, keras.tree.flatten(outputs))
    return [array.astype("float64") for array in arrays]


def _snr_db(
    reference: list[np.ndarray], outputs: list[np.ndarray]
) -> float | None:
    """Each output counts alike; what is the same for all samples, not."""
    ratios = []
    for old, changed in zip(reference, outputs, strict=True):
        signal = float(np.sum(np.square(old - old.mean(0))))
        if signal:
            ratios.append(np.sum(np.square(changed - old)) / signal)
    noise = float(np.mean(ratios)) if ratios else 0.0
    return -10 * float(np.log10(noise)) if noise else None
