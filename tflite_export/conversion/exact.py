"""From a stripped model to a file with the trained integers.

The one way that `export` and `check` share: convert, write the codes, and
rewrite the model where its file could not hold them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import keras
import numpy as np

from tflite_export.conversion.converter import convert, convert_float
from tflite_export.conversion.repairs import mended_file
from tflite_export.conversion.rewrites import rewrite
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.samples import ModelInput
from tflite_export.targets.litert_sparse.padding import pad_symmetrically
from tflite_export.verification.verify import ordered_weights
from tflite_export.weights.integer_graph import write_exact_weights
from tflite_export.weights.records import FoldedInputGainError, WrittenWeights

if TYPE_CHECKING:
    from codeq_keras import QuantizedWeight


def convert_exactly(
    stripped: keras.Model,
    trained: Mapping[str, "QuantizedWeight"],
    inputs: list[ModelInput],
    samples: list[np.ndarray],
) -> tuple[Flatbuffer, WrittenWeights]:
    """Converts a model to an int8 file that holds the trained integers.

    Whether the converter folds a BatchNormalization into a Dense layer depends
    on the whole graph, so it is seen in the file, not predicted, and such a
    model is converted again.

    Args:
        stripped: Model whose kernels are `codes * scale`; it is not changed.
        trained: The trained weights by path.
        inputs: Its inputs.
        samples: One array of shape `(n, ...)` for each input.

    Returns:
        The file, and what was done to it; its notes name the rewrites.

    Raises:
        ValueError: If a trained weight cannot be in the file.
        RuntimeError: If the converter fails.
    """
    kernels = ordered_weights(stripped, trained)
    model, notes = rewrite(stripped)
    folded: dict[str, np.ndarray] = {}
    while True:
        file = mended_file(convert(model, inputs, samples))
        try:
            written = write_exact_weights(file, trained, kernels)
        except FoldedInputGainError as error:
            if folded.keys() >= set(error.paths):
                raise
            folded |= {
                p: trained[p].codes * trained[p].scale for p in error.paths
            }
            earlier = notes
            model, notes = rewrite(stripped, list(folded.values()))
            if notes == earlier:  # No layer that can be rewritten has them.
                raise
        else:
            return file, written._replace(notes=[*notes, *written.notes])


def convert_for_sparse_kernels(
    stripped: keras.Model,
    inputs: list[ModelInput],
    samples: list[np.ndarray],
) -> tuple[Flatbuffer, list[str]]:
    """Converts a model to a float32 file, padded as sparse kernels need it.

    Args:
        stripped: Model whose kernels are `codes * scale`; it is not changed.
        inputs: Its inputs.
        samples: One array of shape `(n, ...)` for each input.

    Returns:
        The file, in which no code is written yet, and notes on its paddings.

    Raises:
        RuntimeError: If the converter fails.
    """
    file = Flatbuffer(convert_float(stripped, inputs, samples))
    return file, pad_symmetrically(file)
