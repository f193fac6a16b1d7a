"""deployed_copy: the plain model that a quantized one is deployed as."""

from collections.abc import Iterable

import keras

from codeq_keras.architecture.copying import copy_model
from codeq_keras.architecture.kernels import find_kernels
from codeq_keras.quantizers.kernels import Kernel, quantized


def deployed_copy(
    latent_model: keras.Model, kernels: Iterable[Kernel]
) -> keras.Model:
    """Returns a copy whose kernels have the values that are deployed."""
    copy = copy_model(latent_model)
    targets = {kernel.path: kernel for kernel in find_kernels(copy)}
    for kernel in quantized(kernels):
        targets[kernel.path].variable.assign(kernel.values())
    return copy
