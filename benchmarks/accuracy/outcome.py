"""Outcome: a compressed network, its costs, and how it comes from a model."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from baselines.masked_model import MaskedModel
from harness.training import Training

import codeq_keras
from codeq_keras.architecture.kernels import Kernel, find_kernels

FLOAT_BITS = 32
# Of the training data, for BatchNorm re-estimation and calibration.
_CALIBRATION_BATCHES, _CALIBRATION_BATCH_SIZE = 16, 250


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A compressed network.

    `model` computes what is deployed, and `deployed` has the values of its
    kernels. `settings` are what the method chose by itself; `own_costs` replace
    entries of `costs` where a kernel has several bit widths. `trained` is the
    quantized model that can be exported, if there is one.
    """

    model: keras.Model
    kernels: Sequence[Kernel]
    deployed: Sequence[np.ndarray]
    bit_widths: Sequence[int]
    activation_bit_width: int = FLOAT_BITS
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    own_costs: dict[str, Any] = dataclasses.field(default_factory=dict)
    trained: keras.Model | None = None

    def costs(self) -> dict[str, Any]:
        """Returns sparsity, relative BOPs and bytes.

        The bytes are those of the kernels: dense codes of the bit width, or a
        bitmap and the codes that are not zero, whichever is less per kernel.
        """
        sizes = np.array([value.size for value in self.deployed])
        kept = np.array([np.count_nonzero(value) for value in self.deployed])
        bits = np.array(self.bit_widths)
        macs = np.array([kernel.num_macs or 0 for kernel in self.kernels])
        stored = np.ceil(np.minimum(sizes * bits, sizes + kept * bits) / 8)
        bops = (macs * kept / sizes * bits).sum() * self.activation_bit_width
        return {
            "sparsity": float(1 - kept.sum() / sizes.sum()),
            "mean_bit_width": float((sizes * bits).sum() / sizes.sum()),
            "relative_bops": float(bops / (macs.sum() * FLOAT_BITS**2)),
            "kernel_bytes": int(stored.sum()),
            **self.own_costs,
        }


def calibration(training: Training) -> list[np.ndarray]:
    """Returns batches of training inputs."""
    size = _CALIBRATION_BATCH_SIZE
    x = training.split.train[0][: _CALIBRATION_BATCHES * size]
    return [x[start : start + size] for start in range(0, len(x), size)]


def copy(model: keras.Model) -> keras.Model:
    """Returns a copy of a functional model with its weights."""
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    return copied


def masked_outcome(model: MaskedModel, training: Training) -> Outcome:
    """The network with the deployed kernels and statistics of these."""
    plain, deployed = copy(model.latent_model), model.deployed()
    for kernel, value in zip(find_kernels(plain), deployed, strict=True):
        kernel.variable.assign(value)
    codeq_keras.reestimate_batch_norm(plain, calibration(training))
    bits = [model.bit_width or FLOAT_BITS] * len(deployed)
    return Outcome(plain, model.kernels, deployed, bits)


def trained_outcome(
    model: Any, training: Training, settings: dict[str, Any]
) -> Outcome:
    """The network as trained, with the statistics of what is deployed."""
    if not model.activation_bit_width:
        codeq_keras.reestimate_batch_norm(model, calibration(training))
    return outcome_of(model, settings)


def outcome_of(model: Any, settings: dict[str, Any]) -> Outcome:
    """The network of a quantized model."""
    activation_bits = model.activation_bit_width
    plain = codeq_keras.strip_quantizers(model)
    kernels = find_kernels(plain)
    widths = {
        kernel.path: int(kernel.quantizer.bit_width)
        for kernel in model.quantized_kernels
    }
    bits = [widths.get(kernel.path, FLOAT_BITS) for kernel in kernels]
    return Outcome(
        model if activation_bits else plain,  # Only `model` has its ranges.
        kernels,
        values_of(kernels),
        bits,
        activation_bits or FLOAT_BITS,
        settings,
        trained=model,
    )


def values_of(kernels: Sequence[Kernel]) -> list[np.ndarray]:
    """Returns the weights as arrays."""
    return [keras.ops.convert_to_numpy(kernel.variable) for kernel in kernels]
