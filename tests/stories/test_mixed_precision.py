"""A model in mixed precision trains, is saved, loads and becomes a file."""

import keras
import numpy as np
import pytest
from keras import layers

import codeq_keras
from codeq_keras import CoDeQConfig

POLICIES = ("mixed_float16", "mixed_bfloat16")
CONFIGS = {
    "plain": (CoDeQConfig(), None),
    "activations": (CoDeQConfig(), 8),
    "uniform": (CoDeQConfig(level_grid="uniform"), None),
    "paper": (CoDeQConfig(level_grid="paper"), None),
    "learned": (CoDeQConfig(bit_width="learned", axis=-1), 8),
}


@pytest.fixture
def set_policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.fixture
def data(rng):
    x = rng.normal(size=(64, 6)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


def network(policy=None, units=8):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(units, dtype=policy, name="body"),
            layers.BatchNormalization(dtype=policy),
            layers.ReLU(dtype=policy),
            layers.Dense(2, dtype="float32", name="head"),
        ]
    )


def train(model, data, **arguments):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    return model.fit(*data, batch_size=16, verbose=0, **arguments)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("config", CONFIGS)
def test_global_policy_trains_and_loads_under_another(
    set_policy, data, tmp_path, policy, config
):
    set_policy(policy)
    chosen, activation_bit_width = CONFIGS[config]
    qmodel = codeq_keras.quantize_model(
        network(), chosen, activation_bit_width=activation_bit_width
    )
    losses = train(qmodel, data, epochs=3).history["loss"]
    qmodel.save(tmp_path / "model.keras")
    set_policy("float32")

    loaded = keras.saving.load_model(tmp_path / "model.keras")

    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(
        loaded.predict(data[0], verbose=0), qmodel.predict(data[0], verbose=0)
    )
    scaled = keras.optimizers.LossScaleOptimizer
    for model in (qmodel, loaded):
        assert isinstance(model.optimizer, scaled) == ("float16" == policy[6:])
        assert {v.dtype for v in model.trainable_variables} == {"float32"}
    if config != "paper":
        weight = codeq_keras.quantized_weights(loaded)["body/kernel"]
        assert weight.scale.dtype == np.float32
        np.testing.assert_array_equal(
            np.asarray(codeq_keras.strip_quantizers(loaded).layers[0].kernel),
            weight.dequantize(),
        )
    loaded.fit(*data, verbose=0)  # And trains on.


@pytest.mark.parametrize("policy", POLICIES)
def test_budget_is_met_under_a_global_policy(set_policy, data, policy):
    set_policy(policy)
    # Of 512 weights, a few are more than what a budget promises.
    qmodel = codeq_keras.quantize_model(network(units=256))

    train(
        qmodel,
        data,
        epochs=80,
        callbacks=[codeq_keras.CompressionBudget(sparsity=0.5)],
    )

    # Half a point: what a sparsity budget promises.
    assert codeq_keras.report(qmodel).sparsity == pytest.approx(0.5, abs=5e-3)


@pytest.mark.parametrize("policy", POLICIES)
def test_quantized_model_inside_of_a_mixed_one_computes_the_same(
    set_policy, data, policy
):
    qmodel = codeq_keras.quantize_model(network())
    set_policy(policy)
    outer = keras.Sequential([keras.Input((6,)), qmodel])

    outputs = outer.predict(data[0], verbose=0)

    expected = qmodel.predict(data[0], verbose=0)
    np.testing.assert_array_equal(outputs, expected)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="The export needs it."
)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("is_global", "activation_bit_width"), [(True, None), (False, 8)]
)
def test_file_has_the_trained_integers(
    set_policy, data, tmp_path, policy, is_global, activation_bit_width
):
    import tflite_export

    if is_global:
        set_policy(policy)
    qmodel = codeq_keras.quantize_model(
        network(None if is_global else policy),
        activation_bit_width=activation_bit_width,
    )
    train(qmodel, data)

    result = tflite_export.export(
        qmodel, tmp_path / "model.tflite", representative_dataset=data[0]
    )

    assert result.verification.codes_equal
    [output] = result.verification.outputs
    # 3 for three layers of int8, and bfloat16 has no more than 8 bits itself.
    assert output.max_lsb <= 3 + 3 * (policy == "mixed_bfloat16")
    assert qmodel.layers[0].dtype_policy.name == policy
