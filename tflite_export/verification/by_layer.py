"""Compares a file with its model layer by layer.

Every layer of the model gets the file's activations as inputs. So a difference
counts in its own layer, and not in all later ones.

Tensors are matched by range, size and contents: in a file, about half of their
names point to other layers.
"""

import functools

import numpy as np

from codeq_keras.deployment import ActivationRange, RangedModel
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Tensor
from tflite_export.runtime import interpreter
from tflite_export.samples import ModelInput

_NUM_SAMPLES = 8
_SCALE_ROUNDING = 1e-5


def layer_agreement(
    file: Flatbuffer,
    model: RangedModel,
    inputs: list[ModelInput],
    samples: list[np.ndarray],
) -> dict[str, float]:
    """Returns how well the file computes each layer by itself.

    For the path of an activation, in the order of the graph, it is the fraction
    of values within one step. The model computes its values from the file's
    earlier activations, on the first 8 samples. Activations that are in no
    tensor of the file are not listed.
    """
    rows = [array[:_NUM_SAMPLES] for array in samples]
    computed = _file_activations(file, inputs, rows)
    seen: dict[str, list[float]] = {}
    # Row by row: the model is written for a batch of 1, like the file.
    for row in range(len(rows[0])):
        nearest = _Nearest([(t, codes[row]) for t, codes in computed], seen)
        model.visit(nearest, *(array[row : row + 1] for array in rows))
    return {path: float(np.mean(values)) for path, values in seen.items()}


class _Nearest:
    """Puts the file's activations in the place of the model's.

    `computed` are tensors of the file and their codes, of one sample. `seen`
    collects the fractions of values within one step, by path.
    """

    def __init__(
        self,
        computed: list[tuple[Tensor, np.ndarray]],
        seen: dict[str, list[float]],
    ) -> None:
        self._computed, self._seen = computed, seen

    def __call__(
        self, path: str, value: np.ndarray, held: ActivationRange
    ) -> np.ndarray:
        """Returns the file's value for the activation at a path."""
        expected = np.round(value.reshape(-1) / held.scale) + held.zero_point
        candidates = [
            codes
            for tensor, codes in self._computed
            if codes.size == value.size
            and int(tensor.zero_points[0]) == held.zero_point
            and abs(tensor.scales[0] - held.scale)
            <= _SCALE_ROUNDING * held.scale
        ]
        if not candidates:
            return value
        distances = [np.abs(codes - expected) for codes in candidates]
        best = int(np.argmin([np.mean(d > 1) for d in distances]))
        within_one = float(np.mean(distances[best] <= 1))
        self._seen.setdefault(path, []).append(within_one)
        codes: np.ndarray = candidates[best] - held.zero_point
        return (codes * held.scale).reshape(value.shape).astype(value.dtype)


def _file_activations(
    file: Flatbuffer, inputs: list[ModelInput], rows: list[np.ndarray]
) -> list[tuple[Tensor, np.ndarray]]:
    """All int8 tensors that the file computes, as float64, `(n, size)`."""
    tensors = {
        index: file.tensor(0, index)
        for operator in file.operators
        if operator.subgraph == 0
        for index in operator.outputs
    }
    wanted = [
        index
        for index, tensor in tensors.items()
        if tensor.dtype == "int8" and tensor.scales.size == 1
    ]
    names = [spec.name for spec in inputs]
    quantized = interpreter.quantized_inputs(file, rows, names)
    run = functools.partial(
        interpreter.run, file.to_bytes(), quantized, tensors=wanted
    )
    try:
        results = run(reference_kernels=True)
    except ValueError as error:
        # There is a reference kernel for every operator but an int8 TILE.
        if "Registration failed" not in str(error):
            raise
        results = run()
    return [
        (tensors[index], codes.reshape(len(codes), -1).astype(np.float64))
        for index, codes in results.items()
    ]
