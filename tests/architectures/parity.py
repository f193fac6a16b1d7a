"""How well a file with trained ranges agrees with the quantized Keras model.

Both round each activation to the same integers, but sums of floats and of
integers differ in their last bits, and now and then the two round a value
between two steps apart. A network that amplifies carries that on, and the
untrained ones here do: their classes are closer to each other than the
roundings of a hundred layers add up to. So where the outputs part, each layer
is compared by itself, given what the file computed before it.
"""

import keras
import numpy as np
from architectures.models import outputs_of, packed, samples

import codeq_keras
import tflite_export
from tflite_export.conversion.graphs import named_outputs
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter
from tflite_export.samples import model_inputs

NUM_SAMPLES = 64
BATCH_SIZE = 32
# Of moving averages over 50 steps, enough to settle.
EPOCHS = 8
MIN_WITHIN_ONE = 0.99
MIN_TOP1 = 0.995
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
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    prepare(qmodel, inputs)
    observe_ranges(qmodel, inputs, EPOCHS)
    result = tflite_export.export(
        qmodel, path, weight_storage="int8", representative_dataset=inputs
    )
    data = path.read_bytes()
    file = Flatbuffer(data)
    names = [spec.name for spec in model_inputs(qmodel.latent_model)]
    expected = named_outputs(qmodel(packed(inputs)))
    actual = interpreter.predict(data, inputs, names)
    within_one, top1 = agreement(expected, actual, file.outputs())
    text = f"{within_one:.1%}; {top1:.1%}"
    if within_one >= MIN_WITHIN_ONE and top1 >= MIN_TOP1:
        return True, text
    layers = result.verification.layer_agreement
    if not layers:
        return False, text
    worst = min(layers, key=layers.__getitem__)
    text += f" (by layer: {layers[worst]:.1%} of {worst!r}, the least)"
    return layers[worst] >= MIN_WITHIN_ONE, text


def agreement(expected, actual, tensors):
    """Returns how many values are within a step, and how many classes equal.

    Classes count where the best two are more than a step apart; outputs are
    whole steps, in floats.
    """
    within, same = [], []
    for name, tensor in tensors.items():
        left, right = np.asarray(expected[name]), actual[name]
        scale = tensor.scales[0]
        within.append((np.abs(left - right) < 1.5 * scale).ravel())
        if left.shape[-1] > 1:
            best = np.sort(left, axis=-1)
            is_clear = best[..., -1] - best[..., -2] > 1.5 * scale
            equal = left.argmax(-1) == right.argmax(-1)
            same.append(equal[is_clear])
    classes = np.concatenate(same) if same else np.ones(1)
    return np.concatenate(within).mean(), (
        classes.mean() if classes.size else 1.0
    )


def observe_ranges(qmodel, inputs, epochs):
    """Trains without moving a weight."""
    qmodel.compile(keras.optimizers.SGD(0.0), "mse")
    targets = [np.zeros_like(o) for o in outputs_of(qmodel, inputs)]
    qmodel.fit(
        packed(inputs),
        packed(targets),
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
    )
