"""A Keras 3 model through TFMOT's API, and back to Keras 3.

Both directions keep every weight: the codes are the same on either side.
Takes about a minute on a CPU.

    python examples/keras3_to_tfmot.py [--smoke]
"""

import sys

import keras
from sklearn.datasets import load_digits
from tensorflow_model_optimization.quantization.keras import (
    quantize_annotate_model,
    quantize_apply,
)

import codeq_keras
from codeq_keras import tfmot


def main(*, epochs: int) -> None:
    """Trains a Keras 3 model in TFMOT and compares the codes."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1) / 16

    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    annotated = quantize_annotate_model(tfmot.to_tf_keras(model))
    qat_model = quantize_apply(annotated, scheme=tfmot.CoDeQScheme())
    qat_model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    budget = tfmot.CompressionBudget(relative_bops=0.04)
    qat_model.fit(images, labels, epochs=epochs, verbose=2, callbacks=[budget])

    qmodel = tfmot.from_tf_keras(qat_model, model)  # Goes on in Keras 3.
    trained = tfmot.quantized_weights(qat_model)
    for path, weight in codeq_keras.quantized_weights(qmodel).items():
        same = (weight.codes == trained[path].codes).all()
        print(f"{path}: {weight.sparsity:.1%} zeros, same codes: {same}")


if __name__ == "__main__":
    main(epochs=1 if "--smoke" in sys.argv else 10)
