"""Files that older code saved load, with the same codes and outputs.

The code of 2026-11-29, commit 2be3931, trained and saved the models and
computed what the `.npz` files hold. Its `CoDeQConfig` has the bits of the
activations, and a quantizer alone with its config has scalar variables.
"""

import pathlib
import warnings

import keras
import numpy as np
import pytest
from support.training import compile_and_fit

import codeq_keras

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
ONLY_ONE = "Skipping variable loading for optimizer"


def load(name):
    with warnings.catch_warnings():
        # The optimizer of a lone quantizer begins anew: its slots are scalars.
        warnings.filterwarnings("ignore", ONLY_ONE)
        model = keras.saving.load_model(GOLDEN / f"{name}.keras")
    return model, dict(np.load(GOLDEN / f"{name}.npz"))


def expected(values, kind):
    kind += ":"
    found = {k: v for k, v in values.items() if k.startswith(kind)}
    return {key.removeprefix(kind): value for key, value in found.items()}


@pytest.mark.parametrize("name", ["weights", "activations", "lone"])
def test_codes_scales_and_ranges_are_those_that_were_saved(name):
    model, values = load(name)

    weights = codeq_keras.quantized_weights(model)
    ranges = codeq_keras.activation_ranges(model)

    logits = [float(k.quantizer.dead_zone_logit) for k in model.kernels]
    assert logits == values["logits"].tolist()
    assert weights.keys() == expected(values, "codes").keys()
    for path, weight in weights.items():
        np.testing.assert_array_equal(weight.codes, values[f"codes:{path}"])
        np.testing.assert_array_equal(weight.scale, values[f"scale:{path}"])
    assert ranges.keys() == expected(values, "range").keys()
    for path, held in ranges.items():
        assert [held.low, held.high] == values[f"range:{path}"].tolist()


@pytest.mark.parametrize("name", ["weights", "activations", "lone", "nested"])
def test_outputs_are_those_that_were_saved(name):
    model, values = load(name)

    outputs = keras.ops.convert_to_numpy(model(values["inputs"]))

    # The last bits of a sum are the processor's and the backend's.
    np.testing.assert_allclose(outputs, values["outputs"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["weights", "activations", "lone"])
def test_training_goes_on_from_an_older_file(name):
    model, values = load(name)
    x = values["inputs"]
    y = x[:, 0, 0] > 0 if x.ndim == 3 else x[:, 0] > 0

    compile_and_fit(model, (x, y.astype("int32")), epochs=2)

    assert int(model.schedule.num_steps) > 0
