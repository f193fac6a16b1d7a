"""A model whose state a file cannot hold is refused before the conversion."""

import keras
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
