"""How well a file with trained ranges agrees with the quantized Keras model.

Both round each activation to the same integers, but sums of floats and of
integers differ in their last bits, and now and then the two round a value
between two steps apart. A network that amplifies carries that on: some random
ones answer otherwise when one input in a hundred moves by one step. No file can
be closer to such a model than the model is to itself, so it is measured too.
"""

import keras
import numpy as np
from coverage_models import samples

import codeq_keras
import tflite_export
from tflite_export.flatbuffer import Flatbuffer
from tflite_export.representative import model_inputs

NUM_SAMPLES = 64
BATCH_SIZE = 32
# Of moving averages over 50 steps, enough to settle.
EPOCHS = 8
MIN_WITHIN_ONE = 0.99
MIN_TOP1 = 0.995
# What is moved by one step to see what the network makes of it.
MOVED = 0.01
SEED = 0


def measure_parity(model, path, *, prepare):
    """Returns whether file and model agree, and the numbers as text.

    Args:
        model: The float model.
        path: Where to write the file.
        prepare: Called with the quantized model and inputs, before its ranges
            are observed.
    """
    rng = np.random.default_rng(SEED)
    inputs = samples(model, rng, NUM_SAMPLES)
    config = codeq_keras.CoDeQConfig(activation_bit_width=8)
    qmodel = codeq_keras.quantize_model(model, config)
    prepare(qmodel, inputs)
    _observe_ranges(qmodel, inputs)
    result = tflite_export.export(
        qmodel, path, weight_storage="int8", representative_dataset=inputs
    )
    report = result.verification
    text = _text(report.within_one_lsb, report.top1_agreement)
    if _agrees(report.within_one_lsb, report.top1_agreement):
        return True, text
    own = _own_agreement(qmodel, Flatbuffer(path.read_bytes()), inputs, rng)
    text += f" (Keras with itself: {_text(*own)})"
    return report.within_one_lsb >= own[0], text


def _agrees(within_one, top1):
    return within_one >= MIN_WITHIN_ONE and (top1 is None or top1 >= MIN_TOP1)


def _text(within_one, top1):
    text = f"{within_one:.1%}"
    return text if top1 is None else f"{text}; {top1:.1%}"


def _observe_ranges(qmodel, inputs):
    """Trains without moving a weight."""
    qmodel.compile(keras.optimizers.SGD(0.0), "mse")
    targets = [np.zeros_like(o) for o in _outputs(qmodel, inputs)]
    qmodel.fit(
        inputs[0] if len(inputs) == 1 else inputs,
        targets[0] if len(targets) == 1 else targets,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        verbose=0,
    )


def _own_agreement(qmodel, file, inputs, rng):
    """The model's outputs against those with some inputs moved one step."""
    names = [spec.name for spec in model_inputs(qmodel.latent_model)]
    steps = [float(file.inputs()[name].scales[0]) for name in names]
    moved = [
        array
        + step
        * rng.choice([-1.0, 1.0], array.shape)
        * (rng.random(array.shape) < MOVED)
        for array, step in zip(inputs, steps, strict=True)
    ]
    before = _outputs(qmodel, inputs)
    after = _outputs(qmodel, [a.astype("float32") for a in moved])
    scales = [tensor.scales[0] for tensor in file.outputs().values()]
    within, same = [], []
    for a, b, scale in zip(before, after, scales, strict=True):
        # Outputs are whole steps, in floats.
        within.append((np.abs(a - b) < 1.5 * scale).ravel())
        same.append((a.argmax(-1) == b.argmax(-1)).ravel())
    return np.concatenate(within).mean(), np.concatenate(same).mean()


def _outputs(model, inputs):
    value = inputs[0] if len(inputs) == 1 else inputs
    outputs = model(value, training=False)
    return [np.asarray(o) for o in keras.tree.flatten(outputs)]
