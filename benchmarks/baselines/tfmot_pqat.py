"""TFMOT's own pruning-preserving quantization-aware training (PQAT).

The only baseline that needs TensorFlow, with `codeq-keras[tfmot]`. Its 8 bits
are fixed, so a budget in BOPs is met by pruning alone.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras

from codeq_keras.architecture.kernels import find_kernels
from codeq_keras.tfmot import to_tf_keras

BIT_WIDTH = 8


def _endless(batches: keras.utils.PyDataset) -> Iterator[Any]:
    """Yields the batches of Keras 3 for tf_keras, epoch by epoch."""
    while True:
        yield from (batches[index] for index in range(len(batches)))
        batches.on_epoch_end()


def train(
    net: keras.Model,
    batches: Callable[[], keras.utils.PyDataset],
    *,
    density: float,
    epochs: int,
    learning_rate: float,
) -> tuple[tf_keras.Model, list[np.ndarray]]:
    """Prunes for half of the epochs, then quantizes for the other half.

    The schedules are TFMOT's: polynomial from 40 % of zeros, over the whole
    first half; each half has a cosine of its own, with Adam, because tf_keras's
    AdamW would decay what is pruned in the wrapper.
    """
    model = to_tf_keras(net)
    first = math.ceil(epochs / 2)
    num_steps = first * len(batches())
    # Every 100 steps, as by default, but at least eight times in all. The end
    # must fall on one of these steps, or the final sparsity is never set.
    frequency = max(1, min(100, num_steps // 8))
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        min(0.4, 1 - density),
        1 - density,
        begin_step=0,
        end_step=(num_steps - 1) // frequency * frequency,
        frequency=frequency,
    )
    pruned = tfmot.sparsity.keras.prune_low_magnitude(
        model, pruning_schedule=schedule
    )
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    fit(pruned, batches(), first, learning_rate, callbacks)
    stripped = tfmot.sparsity.keras.strip_pruning(pruned)
    kernels = find_kernels(net)
    # TFMOT takes its masks from the zeros here, and does not store them.
    names = [kernel.layer.name for kernel in kernels]
    masks = [_kernel(stripped.get_layer(name)) != 0 for name in names]
    quantized = tfmot.quantization.keras.quantize_apply(
        tfmot.quantization.keras.quantize_annotate_model(stripped),
        tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme(),
    )
    fit(quantized, batches(), epochs - first, learning_rate, [])
    found = [_kernel(quantized.get_layer(f"quant_{name}")) for name in names]
    return quantized, [
        _rounded(mask * value, kernel.output_axes)
        for kernel, mask, value in zip(kernels, masks, found, strict=True)
    ]


def fit(
    model: tf_keras.Model,
    batches: keras.utils.PyDataset,
    epochs: int,
    learning_rate: float,
    callbacks: list[Any],
) -> None:
    """Trains to classify, with Adam on a cosine."""
    cosine = tf_keras.optimizers.schedules.CosineDecay
    steps = len(batches)
    rate = cosine(learning_rate, epochs * steps)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.Adam(rate), loss)
    model.fit(
        _endless(batches),
        steps_per_epoch=steps,
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,
    )


def _kernel(layer: tf_keras.layers.Layer) -> np.ndarray:
    [kernel] = [
        v for v in layer.weights if v.name.partition(":")[0].endswith("kernel")
    ]
    return kernel.numpy()


def _rounded(kernel: np.ndarray, output_axes: tuple[int, ...]) -> np.ndarray:
    """A kernel on TFMOT's 8-bit grid, one scale per output channel."""
    axes = tuple(i for i in range(kernel.ndim) if i not in output_axes)
    bound = np.abs(kernel).max(axis=axes, keepdims=True)
    scale = np.maximum(bound, 1e-12) / (2 ** (BIT_WIDTH - 1) - 1)
    return scale * np.round(kernel / scale)
