"""Whether a model without its removed channels is the same, in Keras and file.

Half of the channels of every class are removed, up to the next multiple. The
model with zeros in their place and the smaller one are compared: in Keras, as
files on random integers, and by the multiply-accumulates that the report and
the file have.
"""

import numpy as np
from architectures.models import outputs_of, samples
from architectures.parity import observe_ranges
from support import removal

import codeq_keras
from codeq_keras.architecture.channels import find_channels
from codeq_keras.quantizers.channel_gates import reason_to_stay

MULTIPLE = 8
PART = 0.5
NUM_SAMPLES = 64
# Two steps: the ranges of their batches, and the energies of the channels.
EPOCHS = 1
# Sums of fewer floats round in another way, a unit in the last place (6e-8) of
# the larger terms. Each of a hundred layers adds some.
TOLERANCE = 1e-5
SEED = 0


def measure_removal(model, folder, *, prepare):
    """Returns whether nothing has changed, and the numbers as text.

    Args:
        model: The float model.
        folder: Where to write the files.
        prepare: Called with the quantized model and inputs, before its ranges
            are observed.
    """
    classes = find_channels(model).classes
    reasons = [reason_to_stay(each, MULTIPLE) for each in classes]
    if None not in reasons:
        # Every model has an input and an output; some have no other classes.
        inner = [r for r in reasons if not r.endswith(" of the model")]
        return True, f"- ({'; '.join(dict.fromkeys(inner or reasons))})"
    inputs = samples(model, np.random.default_rng(SEED), NUM_SAMPLES)
    qmodel = codeq_keras.quantize_model(
        model, activation_bit_width=8, channel_multiple=MULTIPLE
    )
    prepare(qmodel, inputs)
    observe_ranges(qmodel, inputs, EPOCHS)
    removal.hold_part(qmodel, PART)
    small = codeq_keras.remove_channels(qmodel)
    whole_file, small_file = removal.export_both(
        qmodel, folder, weight_storage="int8", representative_dataset=inputs
    )
    found = {
        "Keras": _difference(qmodel, small, inputs) <= TOLERANCE,
        "codes": small_file.verification.codes_equal,
        "files": removal.have_equal_outputs(whole_file, small_file),
        "MACs": _macs(qmodel, small) == {removal.counted_macs(small_file.path)},
    }
    wrong = [name for name, is_right in found.items() if not is_right]
    text = f"differs in {', '.join(wrong)}" if wrong else "identical"
    macs = codeq_keras.report(qmodel).relative_macs
    shrunk, _ = removal.num_shrunk(qmodel)
    text += f"; MACs {macs:.2f}; {shrunk} of {len(classes)} classes"
    return not wrong, text


def _difference(qmodel, small, inputs):
    """Of the floats, relative to the largest: roundings hide small ones."""
    left, right = (
        outputs_of(codeq_keras.strip_quantizers(each), inputs)
        for each in (qmodel, small)
    )
    return max(
        float(np.abs(a - b).max() / np.abs(a).max())
        for a, b in zip(left, right, strict=True)
    )


def _macs(qmodel, small):
    """The multiply-accumulates that both reports have, one if they agree."""
    whole = codeq_keras.report(qmodel)
    dense = sum(layer.num_macs for layer in whole.layers)
    return {
        round(whole.relative_macs * dense),
        sum(layer.num_macs for layer in codeq_keras.report(small).layers),
    }
