"""CoDeQ in a TFMOT training script: the lines that change are marked.

Trains a digit classifier with TensorFlow Model Optimization's own API and
exports it. Takes about a minute on a CPU.

    python examples/tfmot_migration.py [--smoke]
"""

import sys

import tf_keras
from sklearn.datasets import load_digits
from tensorflow_model_optimization.quantization.keras import (
    quantize_annotate_model,
    quantize_apply,
)

import tflite_export  # instead of the TFLiteConverter
from codeq_keras.tfmot import CoDeQScheme, CompressionBudget, report


def main(*, epochs: int) -> None:
    """Trains in float, quantizes, trains on and exports."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1) / 16

    model = tf_keras.Sequential(
        [
            tf_keras.layers.Conv2D(32, 3, input_shape=(8, 8, 1)),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.ReLU(),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=epochs, verbose=0)

    annotated = quantize_annotate_model(model)
    scheme = CoDeQScheme()  # new
    qat_model = quantize_apply(annotated, scheme=scheme)  # was: no scheme
    qat_model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    budget = CompressionBudget(sparsity=0.8)  # new
    qat_model.fit(
        images, labels, epochs=2 * epochs, verbose=2, callbacks=[budget]
    )

    print(report(qat_model))
    print(tflite_export.export(qat_model, "digits.tflite"))


if __name__ == "__main__":
    main(epochs=1 if "--smoke" in sys.argv else 5)
