"""Measures one row of the table of architectures.

    python row.py NAME FILE [COLUMN ...]

Writes one JSON object: a cell for each column, `{"ok", "value", "reason"}`.
Columns that need no others can be measured alone.
On the JAX backend, those of the training half only.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from architectures.models import JAX_COLUMNS, ROWS, outputs_of, packed, samples
from architectures.parity import measure_parity
from architectures.removal import measure_removal

import codeq_keras
import tflite_export
from codeq_keras.architecture.visits import all_layers
from tflite_export.conversion.converter import convert
from tflite_export.conversion.graphs import inference_graph, named_outputs
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter
from tflite_export.samples import model_inputs

NUM_SAMPLES = 16
# About 60 % zeros in a normal kernel.
DEAD_ZONE_LOGIT = 1.0
SEED = 0
# Half a step for each of the layers in a row, of random signs. Random networks
# can amplify more, but then in the plain converter's file as well.
MAX_P99_LSB = 10
MAX_RATIO_TO_PLAIN = 1.5


def measure(name: str, columns: Sequence[str] = ()) -> dict[str, dict]:
    """Returns the cells of a row, or some; a step that fails ends it."""
    keras.utils.set_random_seed(SEED)
    row = ROWS[name]
    cells: dict[str, dict] = {}
    start = time.perf_counter()
    model = row.build()
    inputs = samples(model, np.random.default_rng(SEED), NUM_SAMPLES)
    state: dict = {"row": row, "model": model, "inputs": inputs}
    with tempfile.TemporaryDirectory() as folder:
        state["folder"] = Path(folder)
        for column, step in STEPS.items():
            if columns and column not in columns:
                continue
            if keras.backend.backend() == "jax" and column not in JAX_COLUMNS:
                continue
            if any(needed not in state for needed in step.needs):
                cells[column] = _cell(False, "-", "an earlier step failed")
                continue
            try:
                ok, value = step.run(state)
                reason = "" if ok else row.known.get(column, "")
            except Exception as error:  # The table names every failure.
                ok, value = False, "error"
                reason = f"{type(error).__name__}: {error}"
            cells[column] = _cell(ok, value, reason)
    if not columns:
        seconds = f"{time.perf_counter() - start:.0f}"
        cells["seconds"] = _cell(True, seconds, "")
    return cells


def _cell(ok: bool, value: str, reason: str) -> dict:
    return {"ok": bool(ok), "value": value, "reason": reason[:600]}


def _difference(left, right):
    pairs = zip(left, right, strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def _identity(state):
    model, inputs = state["model"], state["inputs"]
    off = codeq_keras.quantize_model(model, overrides={".": None})
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    same = _difference(outputs_of(off, inputs), outputs_of(model, inputs)) == 0
    # Training mode: dropout draws from seeds, which a copy has anew.
    for layer in (*all_layers(off.latent_model), *all_layers(plain)):
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    outputs_of(off, inputs, training=True)
    outputs_of(plain, inputs, training=True)
    statistics = _statistics(off.latent_model), _statistics(plain)
    same = same and _difference(*statistics) == 0 if statistics[0] else same
    return same, "identical" if same else "differs"


def _statistics(model):
    return [
        np.array(variable)
        for variable in model.non_trainable_variables
        if variable.name.startswith("moving_")
    ]


def _fit(state):
    model, inputs = state["model"], state["inputs"]
    qmodel = codeq_keras.quantize_model(model)
    qmodel.compile("adam", "mse")
    rng = np.random.default_rng(SEED)
    targets = [rng.normal(size=o.shape) for o in outputs_of(model, inputs)]
    before = _trained_values(qmodel)
    qmodel.fit(
        packed(inputs),
        packed(targets),
        batch_size=NUM_SAMPLES // 2,
        epochs=1,
        verbose=0,
    )
    moved = {
        group: sum(
            not np.array_equal(old, new)
            for old, new in zip(before[group], values, strict=True)
        )
        for group, values in _trained_values(qmodel).items()
    }
    state["trained"] = qmodel
    ok = all(moved[group] == len(vs) for group, vs in before.items())
    return ok, " ".join(f"{moved[g]}/{len(vs)}" for g, vs in before.items())


def _trained_values(qmodel):
    """Copies of all that a training must move, by group."""
    variables = qmodel.latent_model.non_trainable_variables
    groups = {
        "kernels": [kernel.variable for kernel in qmodel.quantized_kernels],
        "logits": [
            k.quantizer.dead_zone_logit for k in qmodel.quantized_kernels
        ],
        "statistics": [v for v in variables if v.name.startswith("moving_")],
    }
    return {
        group: [np.array(keras.ops.convert_to_numpy(v)) for v in values]
        for group, values in groups.items()
    }


def _like_trained(qmodel, inputs):
    """Zeros, negative gammas, and statistics that fit the weights."""
    rng = np.random.default_rng(SEED)
    for kernel in qmodel.quantized_kernels:
        kernel.quantizer.assign_logits(dead_zone=DEAD_ZONE_LOGIT)
    for layer in all_layers(qmodel.latent_model):
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        shape = layer.moving_mean.shape
        if layer.scale:
            signs = np.where(rng.random(shape) < 0.2, -1, 1)
            layer.gamma.assign(signs * rng.uniform(0.5, 1.5, shape))
        if layer.center:
            layer.beta.assign(rng.normal(0, 0.3, shape))
    if _statistics(qmodel.latent_model):
        codeq_keras.reestimate_batch_norm(qmodel, [(packed(inputs),)])
        _raise_small_variances(qmodel.latent_model)


def _raise_small_variances(model):
    """No trained channel amplifies the rounding of a dead one a thousandfold.

    Of random weights and 16 samples, some do.
    """
    for variable in model.non_trainable_variables:
        if variable.name == "moving_variance":
            values = np.array(variable)
            variable.assign(np.maximum(values, values.mean() / 4))


def _keras_file(state):
    qmodel, inputs = state["trained"], state["inputs"]
    _like_trained(qmodel, inputs)
    path = state["folder"] / "model.keras"
    qmodel.save(path)
    loaded = keras.saving.load_model(path, custom_objects=_custom_objects())
    same = (
        _difference(outputs_of(loaded, inputs), outputs_of(qmodel, inputs)) == 0
    )
    left = codeq_keras.quantized_weights(qmodel)
    right = codeq_keras.quantized_weights(loaded)
    same = same and left.keys() == right.keys()
    same = same and all(
        np.array_equal(left[path].codes, right[path].codes) for path in left
    )
    path.unlink()
    return same, "identical" if same else "differs"


def _custom_objects():
    from support import custom_model

    return {
        "ScaledDense": custom_model.ScaledDense,
        "SubclassedModel": custom_model.SubclassedModel,
        "TokenAndPosition": custom_model.TokenAndPosition,
    }


def _strip(state):
    qmodel, inputs = state["trained"], state["inputs"]
    stripped = codeq_keras.strip_quantizers(qmodel)
    expected = outputs_of(qmodel, inputs)
    largest = max(float(np.abs(o).max()) for o in expected)
    error = _difference(outputs_of(stripped, inputs), expected)
    plain = not any(
        isinstance(layer, codeq_keras.DeadZoneQuantizer)
        for layer in all_layers(stripped)
    )
    # The same numbers in the same operations.
    return plain and error <= 1e-6 * largest, f"{error / largest:.0e}"


def _export(state):
    path = state["folder"] / "model.tflite"
    inputs = state["inputs"]
    state["result"] = tflite_export.export(
        state["trained"],
        path,
        weight_storage="int8",
        representative_dataset=inputs,
    )
    state["notes"] = list(state["result"].notes)
    return True, f"{state['result'].size_bytes:,} bytes"


def _codes(state):
    report = state["result"].verification
    quantized = len(state["trained"].quantized_kernels)
    equal = report.num_tensors - len(report.unequal)
    return report.codes_equal and equal == quantized, f"{equal}/{quantized}"


def _integer(state):
    file = Flatbuffer(state["result"].path.read_bytes())
    left = file.float_operators()
    text = ", ".join(f"{count} {name}" for name, count in left.items())
    return not left, text or f"0 of {len(file.operators)}"


def _litert(state):
    report = state["result"].verification
    text = f"{report.max_output_lsb:.1f}; {report.p99_output_lsb:.1f}"
    agreement = report.top1_agreement
    if agreement is not None:
        text += f"; {agreement:.0%}"
    if report.p99_output_lsb <= MAX_P99_LSB:
        return True, text
    # Is it the model, or the export? Its float weights without codes tell.
    plain = _plain_p99_lsb(state)
    text += f" (plain converter: {plain:.1f})"
    return report.p99_output_lsb <= MAX_RATIO_TO_PLAIN * plain, text


def _plain_p99_lsb(state):
    """How far the plain converter's file is from the same model."""
    stripped = codeq_keras.strip_quantizers(state["trained"])
    inputs = model_inputs(stripped)
    graph = inference_graph(stripped)
    data = convert(graph, inputs, state["inputs"])
    actual = interpreter.predict(
        data, state["inputs"], [spec.name for spec in inputs]
    )
    expected = named_outputs(stripped(packed(state["inputs"])))
    return max(
        float(
            np.percentile(
                np.abs(actual[name] - expected[name]) / tensor.scales[0], 99
            )
        )
        for name, tensor in Flatbuffer(data).outputs().items()
    )


def _vela(state):
    report = tflite_export.check(state["result"].path, target="ethos-u")
    counts = {
        place: sum(operators.values())
        for place, operators in report.placement.items()
    }
    share = counts.get("NPU", 0) / max(sum(counts.values()), 1)
    on_cpu = report.placement.get("CPU", {})
    names = ", ".join(f"{n} {name}" for name, n in on_cpu.items())
    return share == 1, f"{share:.1%}" + (f" (CPU: {names})" if names else "")


def _parity(state):
    if not state["row"].is_convolutional:
        return True, "-"
    path = state["folder"] / "ranged.tflite"
    return measure_parity(state["model"], path, prepare=_like_trained)


def _channels(state):
    if not state["row"].is_convolutional:
        return True, "-"
    return measure_removal(
        state["model"], state["folder"], prepare=_like_trained
    )


class Step:
    """What a column runs, and what it needs of earlier ones."""

    def __init__(self, run, *needs):
        self.run = run
        self.needs = needs


STEPS = {
    "identity": Step(_identity),
    "fit": Step(_fit),
    "keras_file": Step(_keras_file, "trained"),
    "strip": Step(_strip, "trained"),
    "export": Step(_export, "trained"),
    "codes": Step(_codes, "result"),
    "integer": Step(_integer, "result"),
    "litert": Step(_litert, "result"),
    "vela": Step(_vela, "result"),
    "parity": Step(_parity, "result"),
    "channels": Step(_channels),
}

if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(measure(sys.argv[1], sys.argv[3:])))
