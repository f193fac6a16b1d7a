"""deployed_values: the values that a run of the deployed weights has."""

from collections.abc import Iterable
from typing import Any

import keras

from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.architecture.kernels import Kernel
from codeq_keras.quantizers.kernels import QuantizedKernel


def deployed_values(
    kernels: Iterable[Kernel],
    graph: ActivationGraph | None,
    *,
    training: bool = False,
) -> list[tuple[keras.Variable, Any]]:
    """Returns pairs for `run_scoped`: kernels, and the twins of a graph."""
    values = []
    for kernel in kernels:
        if isinstance(kernel, QuantizedKernel):
            deployed = kernel.values(training=training)
            values.append((kernel.variable, deployed))
        elif kernel.gate is not None:
            masked = kernel.gate.masked(kernel.variable, training=training)
            values.append((kernel.variable, masked))
    if graph is not None:
        by_variable = {id(variable): value for variable, value in values}
        values += [(t, by_variable.get(id(o), o)) for t, o in graph.twins]
    return values
