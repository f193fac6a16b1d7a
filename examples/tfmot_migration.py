"""CoDeQ in a TFMOT training script: the lines that change are marked.

Trains a digit classifier with TensorFlow Model Optimization's own API and
exports it. Takes about a minute on a CPU.
"""

import tf_keras
from sklearn.datasets import load_digits
from tensorflow_model_optimization.quantization.keras import (
    quantize_annotate_model,
    quantize_apply,
)

import tflite_export  # instead of the TFLiteConverter
from codeq_keras.tfmot import CoDeQScheme, CompressionBudget, report

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
model.fit(images, labels, epochs=5, verbose=0)

annotated = quantize_annotate_model(model)
qat_model = quantize_apply(annotated, scheme=CoDeQScheme())  # was: no scheme
qat_model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
budget = CompressionBudget(sparsity=0.8)  # new
qat_model.fit(images, labels, epochs=10, verbose=2, callbacks=[budget])

print(report(qat_model))
print(tflite_export.export(qat_model, "digits.tflite"))
