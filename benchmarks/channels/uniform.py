"""One-shot removal: the same share of every class, by activation and weight."""

from collections.abc import Mapping

import keras
import numpy as np

from codeq_keras.architecture.channels import ChannelMap, find_channels
from codeq_keras.architecture.kernels import Kernel, find_kernels
from codeq_keras.architecture.narrowing import narrow_model

# Inputs on which the activations are measured.
NUM_SAMPLES = 1_000


def remove_uniformly(
    net: keras.Model, samples: np.ndarray, sizes: Mapping[int, int]
) -> keras.Model:
    """Returns a network without the channels that its readers use least.

    `sizes` says for a class of so many channels how many stay; other classes
    and frozen ones keep theirs.
    """
    found = find_channels(net)
    energies = channel_energies(net, found, samples[:NUM_SAMPLES])
    kept = {
        number: np.sort(np.argsort(energies[number])[-sizes[each.size] :])
        for number, each in enumerate(found.classes)
        if each.frozen is None and each.size in sizes
    }
    return narrow_model(net, found, kept)


def channel_energies(
    net: keras.Model, found: ChannelMap, samples: np.ndarray
) -> list[np.ndarray]:
    """Returns, class by class, each channel's part in its readers' outputs.

    That is the sum over the readers of `sum(V[c] ** 2) * mean(x[c] ** 2)`.
    """
    energies = [np.zeros(each.size) for each in found.classes]
    readers = [k for k in find_kernels(net) if id(k.variable) in found.reads]
    moments = _second_moments(net, readers, samples)
    for kernel, moment in zip(readers, moments, strict=True):
        axis = found.reads[id(kernel.variable)]
        values = np.moveaxis(kernel.variable.numpy(), axis, 0)
        parts = np.square(values).reshape(len(values), -1).sum(1) * moment
        start = 0
        for number in found.axes[id(kernel.variable)][axis]:
            stop = start + found.classes[number].size
            energies[number] += parts[start:stop]
            start = stop
    return energies


def _second_moments(
    net: keras.Model, readers: list[Kernel], samples: np.ndarray
) -> list[np.ndarray]:
    """Returns the mean square of each channel that a kernel reads."""
    inputs = [kernel.layer.input for kernel in readers]
    arrays = keras.Model(net.inputs, inputs).predict(samples, verbose=0)
    return [np.square(x).reshape(-1, x.shape[-1]).mean(0) for x in arrays]
