"""deployed_values: the values that a run of the deployed weights has."""

from collections.abc import Iterable
from typing import Any

import keras

from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.quantizers.kernels import Kernel, quantized


def deployed_values(
    kernels: Iterable[Kernel], graph: ActivationGraph | None
) -> list[tuple[keras.Variable, Any]]:
    """Returns pairs for `run_scoped`: kernels, and the twins of a graph."""
    found = quantized(kernels)
    deployed = {id(k.variable): k.values() for k in found}
    values = [(k.variable, deployed[id(k.variable)]) for k in found]
    if graph is not None:
        values += [(t, deployed.get(id(o), o)) for t, o in graph.twins]
    return values
