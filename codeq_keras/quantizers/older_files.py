"""Reads files that were saved until 2026-11-29. Goes when nobody has them.

A quantizer alone with its config had scalar variables then, and Keras saved
its logits under the quantizer instead of the state. The layers of a quantized
model were its own parts, and Keras saved these as layers.
"""

from collections.abc import Iterable
from typing import Any

from codeq_keras.architecture.kernels import Kernel
from codeq_keras.quantizers.kernels import quantized


def has_parts_as_layers(store: Any) -> bool:
    """Whether the file of a store has the parts of a model as its layers."""
    schedule = "layers/training_schedule"
    return any(f"/{g}".endswith(f"/{schedule}") for g in _groups(store))


def _groups(store: Any) -> list[str]:
    groups: list[str] = []
    if hasattr(store, "h5_file"):
        store.h5_file.visit(groups.append)
    return groups


def load_lone_logits(kernels: Iterable[Kernel], store: Any) -> None:
    """Loads the logits that such a file has under the quantizers."""
    groups = _groups(store)
    for index, kernel in enumerate(quantized(kernels)):
        state = getattr(kernel.quantizer, "state", None)
        name = "dead_zone_quantizer" + (f"_{index}" if index else "")
        for logit in state.logits.values() if state is not None else ():
            path = f"layers/{name}/{logit.name}"
            # The model may be part of another one, at a path of its own.
            found = [g for g in groups if f"/{g}".endswith(f"/{path}")]
            if len(found) == 1:
                logit.load_elsewhere(store.get(found[0]))
