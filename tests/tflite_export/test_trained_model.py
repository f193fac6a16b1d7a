"""A model whose state a file cannot hold is refused before the conversion."""

import keras
import numpy as np
import pytest
from keras import layers

import codeq_keras
import tflite_export

STATEFUL = {
    "gru": lambda: layers.GRU(4, stateful=True, unroll=True),
    "lstm": lambda: layers.LSTM(4, stateful=True),
    "bidirectional": lambda: layers.Bidirectional(
        layers.LSTM(4, stateful=True)
    ),
}


@pytest.mark.parametrize("kind", STATEFUL)
def test_stateful_layer_is_refused_with_the_way_that_works(kind, tmp_path):
    frame = keras.Input(batch_shape=(1, 2, 6))
    outputs = layers.Dense(3)(STATEFUL[kind]()(frame))
    qmodel = codeq_keras.quantize_model(keras.Model(frame, outputs))

    for function in (
        tflite_export.check,
        lambda model: tflite_export.export(model, tmp_path / "model.tflite"),
    ):
        with pytest.raises(ValueError, match="state an input and an output"):
            function(qmodel)


def test_random_samples_fit_inputs_whose_names_are_not_sorted(tmp_path):
    # A file lists its inputs by name, a model as it was made.
    inputs = [keras.Input((6,), name="second"), keras.Input((4,), name="first")]
    outputs = layers.Dense(3)(layers.Concatenate()(inputs))
    qmodel = codeq_keras.quantize_model(
        keras.Model(inputs, outputs), activation_bit_width=8
    )
    rng = np.random.default_rng(0)
    samples = [rng.normal(size=(32, n)).astype("float32") for n in (6, 4)]
    codeq_keras.calibrate_activations(qmodel, samples)

    result = tflite_export.export(qmodel, tmp_path / "model.tflite")

    assert result.verification.codes_equal
