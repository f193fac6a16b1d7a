"""Promises that hold for every functional model, tried on random ones.

A short run of the same examples each time. For a long one, of other examples:

    RANDOM_MODELS=300 pytest tests/stories/test_random_models.py
"""

import functools
import os
from collections import Counter

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from hypothesis import (
    HealthCheck,
    Phase,
    assume,
    event,
    example,
    given,
    reject,
    settings,
)
from hypothesis import strategies as st
from support import random_models as models
from support.random_models import RandomModel, Step, random_models

import codeq_keras
import tflite_export
from codeq_keras import CoDeQConfig

LONG_RUN = int(os.environ.get("RANDOM_MODELS", "0"))

pytestmark = [
    # Trainings of a handful of steps miss every budget.
    pytest.mark.filterwarnings("ignore:CompressionBudget:UserWarning"),
    # Keras's, of a model whose layers are all frozen.
    pytest.mark.filterwarnings("ignore:The model does not have any trainable"),
]

configs = st.sampled_from(
    [
        CoDeQConfig(),
        CoDeQConfig(bit_width="learned"),
        CoDeQConfig(bit_width=8, axis=-1),
        CoDeQConfig(bit_width=3, level_grid="uniform"),
    ]
)
# Words of a refusal, and the kinds of layers that it is right for.
REFUSED = {
    "at least one kernel": {"matrix", "prelu"},
    "no trainable variable": {"spectral"},
    "no quantized variable": {"spectral"},
    "state": {"stateful"},
}


def examples(number):
    """Runs a few examples in CI: each takes a second or more."""
    if LONG_RUN:
        chosen = {"max_examples": LONG_RUN}
    else:
        # To shrink an example takes minutes.
        phases = [Phase.explicit, Phase.generate]
        chosen = {"max_examples": number, "derandomize": True, "phases": phases}
    return settings(
        **chosen,
        deadline=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
        ],
    )


@pytest.fixture(autouse=True)
def _float32_afterwards():
    yield
    keras.config.set_dtype_policy("float32")


def built(described):
    """The plain model under its global policy; one without weights is left."""
    keras.config.set_dtype_policy(described.policy)
    model = models.build(described)
    assume(any(len(variable.shape) >= 2 for variable in model.variables))
    return model


def or_rightly_refused(test):
    """Ends an example whose model is refused, where that is right."""

    @functools.wraps(test)
    def run(described, **kwargs):
        try:
            test(described, **kwargs)
        except ValueError as error:
            for words, kinds in REFUSED.items():
                if words in str(error) and described.kinds & kinds:
                    event(f"refused: {words}")
                    reject()
            raise

    return run


def fit(model, plain, optimizer="adam", **kwargs):
    """Trains two epochs of two steps on data of the plain model's structure."""
    model.compile(
        optimizer,
        loss=keras.tree.map_structure(lambda _: "mse", plain.output),
        metrics=keras.tree.map_structure_up_to(
            plain.output, lambda _: ["mae"], plain.output
        ),
        run_eagerly=True,
    )
    x, y = models.training_data(plain)
    history = model.fit(
        x,
        y,
        batch_size=models.BATCH,
        epochs=2,
        shuffle=False,
        verbose=0,
        **kwargs,
    )
    return history.history


def predict(model, x):
    return model.predict(x, batch_size=models.BATCH, verbose=0)


def snapshot(model):
    """All variables by path, with whether they train."""
    return [
        (v.path, v.trainable, np.array(keras.ops.convert_to_numpy(v)))
        for v in model.variables
    ]


def assert_same(actual, expected):
    """The same structure of the same arrays."""
    assert str(keras.tree.map_structure(type, actual)) == str(
        keras.tree.map_structure(type, expected)
    )
    pairs = zip(
        keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True
    )
    for left, right in pairs:
        np.testing.assert_array_equal(left, right)


@examples(6)
@given(
    described=random_models(structures=("list", "dict")),
    optimizer=st.sampled_from(["adam", "sgd", "adamw"]),
)
@or_rightly_refused
def test_without_quantizers_training_and_inference_are_plain(
    described, optimizer
):
    plain = built(described)
    x, _ = models.training_data(plain)
    off = codeq_keras.quantize_model(plain, overrides={"": None})

    expected = fit(plain, plain, optimizer)
    history = fit(off, plain, optimizer)

    assert history == expected
    for one, other in zip(
        snapshot(off.latent_model), snapshot(plain), strict=True
    ):
        assert_same(one[1:], other[1:])
    # Twice: a stateful layer goes on from its first run.
    for _ in range(2):
        assert_same(predict(off, x), predict(plain, x))


@examples(5)
@given(described=random_models(structures=("list", "dict")), config=configs)
@example(
    # Attention creates its layers late, and Keras forgets that they are frozen.
    described=RandomModel(
        ("sequence",),
        (Step("attention", frozen="layer"), Step("dense", 1)),
        (2,),
    ),
    config=CoDeQConfig(),
)
@or_rightly_refused
def test_codes_of_a_frozen_layer_never_change(described, config):
    frozen = [
        f"{step.kind}_{number + models.FIRST}"
        for number, step in enumerate(described.steps)
        if step.frozen
    ]
    assume(frozen)
    plain = built(described)
    qmodel = codeq_keras.quantize_model(plain, config)
    before = codeq_keras.quantized_weights(qmodel)
    held = [
        path
        for path in before
        if path.split("/")[0].removeprefix("nested_") in frozen
    ]
    assume(held)
    trainings = [[]]
    if len(held) < len(before):  # A budget needs a kernel that trains.
        sizes = {path: weight.codes.size for path, weight in before.items()}
        share = 1 - sum(sizes[path] for path in held) / sum(sizes.values())
        # The kernels that train can have all of its zeros.
        budget = codeq_keras.CompressionBudget(sparsity=0.7 * share)
        trainings = [[], [budget], []]

    for callbacks in trainings:
        fit(qmodel, plain, callbacks=callbacks)

        after = codeq_keras.quantized_weights(qmodel)
        for path in held:
            np.testing.assert_array_equal(
                after[path].codes, before[path].codes, err_msg=path
            )
            np.testing.assert_array_equal(
                after[path].scale, before[path].scale, err_msg=path
            )


def is_bias(name):
    """Biases and gains are no weights, of whatever rank."""
    return name.endswith("bias") or name in ("beta", "gamma")


@examples(10)
@given(described=random_models(), is_off=st.booleans())
@or_rightly_refused
def test_nothing_that_trains_is_missing_from_the_report(described, is_off):
    plain = built(described)
    overrides = {"": None} if is_off else None
    qmodel = codeq_keras.quantize_model(plain, overrides=overrides)

    listed = Counter(
        row.num_weights for row in codeq_keras.report(qmodel).layers
    )

    # Frozen ones as well: they are in the file.
    plain.trainable = True
    trained = Counter(
        int(np.prod(variable.shape))
        for variable in plain.trainable_variables
        if len(variable.shape) >= 2 and not is_bias(variable.name)
    )
    missing = trained - listed
    assert not missing, (
        f"{missing} of {[v.path for v in plain.trainable_variables]}"
    )


@examples(5)
@given(
    described=random_models(),
    config=configs,
    activation_bit_width=st.sampled_from([None, 8]),
)
@or_rightly_refused
def test_saved_model_predicts_the_same_and_the_plain_one_is_not_changed(
    described, config, activation_bit_width, tmp_path_factory
):
    plain = built(described)
    x, _ = models.training_data(plain)
    before, architecture = snapshot(plain), plain.get_config()
    qmodel = codeq_keras.quantize_model(
        plain, config, activation_bit_width=activation_bit_width
    )
    qmodel(x, training=True)
    path = tmp_path_factory.mktemp("saved") / "model.keras"

    qmodel.save(path)
    loaded = keras.saving.load_model(
        path, custom_objects=models.CUSTOM_OBJECTS, safe_mode=False
    )

    assert_same(predict(loaded, x), predict(qmodel, x))
    assert_same(snapshot(plain), before)
    assert plain.get_config() == architecture


@examples(2)
@given(
    described=random_models(), activation_bit_width=st.sampled_from([None, 8])
)
@example(
    # In the order of strings head_10 and head_11 come before head_9.
    described=RandomModel(
        ("vector",),
        (Step("relu_dense"), Step("dense", 1), Step("matrix", 1)),
        (1, 2, 3, 2),
        output_structure="dict",
    ),
    activation_bit_width=None,
)
@or_rightly_refused
def test_proof_states_how_far_each_output_is_from_keras(
    described, activation_bit_width, tmp_path_factory
):
    plain = built(described)
    qmodel = codeq_keras.quantize_model(
        plain, activation_bit_width=activation_bit_width
    )
    x, _ = models.training_data(plain)
    if activation_bit_width:
        qmodel(x, training=True)
    path = tmp_path_factory.mktemp("exported") / "model.tflite"

    result = tflite_export.export(
        qmodel, path, representative_dataset=models.samples(plain)
    )

    assert result.verification.codes_equal
    stated = {
        output.name: output.max_lsb for output in result.verification.outputs
    }
    measured = max_lsb_by_name(path, plain, predict(qmodel, x))
    assert measured.keys() == stated.keys()
    for name, steps in measured.items():
        # Float32 rounding of a few hundred steps.
        assert steps <= stated[name] + 1e-2, (name, measured, stated)


def max_lsb_by_name(path, plain, expected):
    """The largest difference of each output of a file in steps, by its name.

    With LiteRT alone, and the names of its signature.
    """
    run = Interpreter(
        model_path=str(path), num_threads=1
    ).get_signature_runner()
    taken, given = run.get_input_details(), run.get_output_details()
    inputs = {
        tensor.name: array
        for tensor, array in zip(
            plain.inputs, models.samples(plain), strict=True
        )
    }
    rows = []
    for row in range(2 * models.BATCH):
        values = {
            name: quantize(array[row : row + 1], taken[name])
            for name, array in inputs.items()
        }
        rows.append(run(**values))
    found = {}
    for name, array in models.by_name(expected).items():
        actual = np.concatenate([row[name] for row in rows])
        found[name] = lsb(actual, array, given[name])
    return found


def quantize(values, details):
    scale, zero_point = details["quantization"]
    if not scale:
        return values.astype(details["dtype"])
    codes = np.round(values / np.float32(scale)) + zero_point
    return np.clip(codes, -128, 127).astype(details["dtype"])


def lsb(actual, expected, details):
    """The largest difference in steps; of floats, in ranges of the output."""
    scale, zero_point = details["quantization"]
    expected = np.asarray(expected, "float32")
    if scale:
        actual = (actual.astype("float32") - zero_point) * scale
    else:
        scale = np.ptp(expected) or np.abs(expected).max() or 1.0
    return float(np.abs(actual - expected).max() / scale)
