"""Compresses a trained network from some samples, without labels or `fit`.

Follows docs/without_training.md. The network and the samples are files of
yours; without them, a small network is trained on synthetic shapes. Takes
about half a minute on a CPU.

    python examples/without_training.py [--model model.keras --samples x.npy]
        [--output artifacts] [--smoke]
"""

# %% [markdown]
# # Without training
# A trained network and some inputs, as the device meets them: no labels.

# %%
import argparse
import pathlib

import keras
import numpy as np

import codeq_keras
import tflite_export

parser = argparse.ArgumentParser()
parser.add_argument("--model", help="a trained .keras file")
parser.add_argument("--samples", help="its inputs, an .npy file")
parser.add_argument("--output", type=pathlib.Path, default="artifacts")
parser.add_argument("--smoke", action="store_true", help="seconds only")
args = parser.parse_args()
if (args.model is None) != (args.samples is None):
    parser.error("--model and --samples go together.")

# %% [markdown]
# Synthetic data: the brighter colour of a noisy picture is its class.


# %%
def synthetic(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns pictures and their classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    colours = np.eye(3)[labels][:, None, None]
    pictures = rng.normal(size=(count, 16, 16, 3)) + 0.3 * colours
    return pictures.astype("float32"), labels


def trained(pictures: np.ndarray, labels: np.ndarray) -> keras.Model:
    """Returns a network that has learned them."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(pictures.shape[1:]),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(pictures, labels, epochs=1 if args.smoke else 20, verbose=0)
    return model


if args.model is not None:
    model, samples = keras.models.load_model(args.model), np.load(args.samples)
else:
    keras.utils.set_random_seed(0)
    samples, labels = synthetic(128 if args.smoke else 2000)
    model = trained(samples, labels)

# %% [markdown]
# 5 % of the bit operations. The bits follow from the budget.

# %%
qmodel = codeq_keras.compress_post_training(
    model, samples[:500], relative_bops=0.05, activation_bit_width=8
)
print(codeq_keras.report(qmodel))

# %% [markdown]
# The file, and the proof that it computes what the model computes.

# %%
args.output.mkdir(parents=True, exist_ok=True)
path = args.output / "untrained.tflite"
print(tflite_export.export(qmodel, path))
print(tflite_export.verify(path, qmodel, samples[:100]))
