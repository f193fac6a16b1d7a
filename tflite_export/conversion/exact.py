"""Converts a trained model to a file with the trained codes.

`export` and `check` share this way: convert, write the codes, and rewrite the
model if its file cannot hold them.
"""

from typing import NamedTuple

import keras

from tflite_export.conversion.converter import convert
from tflite_export.conversion.graphs import trained_graph
from tflite_export.conversion.repairs import input_notes, repaired_file
from tflite_export.conversion.rewrites import rewrite
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.samples import ModelInput
from tflite_export.trained_model import TrainedModel
from tflite_export.weights.explaining import FoldedInputGainError
from tflite_export.weights.integer_graph import write_codes


class ConvertedModel(NamedTuple):
    """A file with the trained codes, and notes for the user.

    `silent_channels` counts the channels that a folded gain of zero removed, by
    path.
    """

    file: Flatbuffer
    notes: list[str]
    silent_channels: dict[str, int]


def convert_exactly(trained: TrainedModel) -> ConvertedModel:
    """Converts a model to an int8 file that holds the trained codes.

    The whole graph decides if the converter folds a BatchNormalization into a
    Dense layer. So only the file shows it, and the model is converted again.
    """
    require_tensorflow_backend()
    _require_samples(trained)
    # A model that fake-quantizes itself must be converted without samples.
    samples = None if trained.fake_quantizes else trained.samples
    model, notes = trained.plain, list[str]()
    if not trained.fake_quantizes:
        model, notes = rewrite(trained.plain)
    folded: set[str] = set()
    while True:
        graph, missing = trained_graph(trained, model)
        file = repaired_file(convert(graph, trained.inputs, samples))
        of_inputs = input_notes(file, trained)
        try:
            written = write_codes(file, trained.weights, trained.kernels)
        except FoldedInputGainError as error:
            if trained.fake_quantizes or folded >= set(error.paths):
                raise
            folded |= set(error.paths)
            earlier = notes
            model, notes = rewrite(trained.plain, folded)
            if notes == earlier:  # No layer that can be rewritten has them.
                raise
        else:
            notes = [*notes, *written.notes, *missing, *of_inputs]
            return ConvertedModel(file, notes, written.silent_channels)


def require_tensorflow_backend() -> None:
    """Raises a ValueError where the converter cannot read Keras's models."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            "The export needs Keras on the TensorFlow backend. "
            f"Received: {backend!r}. Save the model with `model.save("
            '"model.keras")` and load and export it in a process started with '
            "KERAS_BACKEND=tensorflow."
        )


def _require_samples(trained: TrainedModel) -> None:
    if trained.samples is None and not trained.brings_ranges:
        raise ValueError(
            "`representative_dataset` must hold inputs as in training: the "
            "ranges of the activations are measured on them. Received: None. "
            f"Pass about 100 samples, for instance {_shapes(trained.inputs)}."
        )


def _shapes(inputs: list[ModelInput]) -> str:
    texts = []
    for spec in inputs:
        sizes = ["any" if size is None else str(size) for size in spec.shape]
        texts.append(f"({', '.join(['n', *sizes])})")
    if len(texts) == 1:
        return f"an array of shape {texts[0]}"
    return f"a list of arrays of shapes {', '.join(texts)}"
