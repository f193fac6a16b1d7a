"""Copies and saved models: what is frozen stays frozen."""

import keras
import numpy as np
import pytest
from keras import layers
from support.custom_model import TokenAndPosition

import codeq_keras
from codeq_keras.architecture.copying import copy_model


@keras.saving.register_keras_serializable(package="tests")
class Block(layers.Layer):
    """Creates its layers when it is built, as many a Transformer does."""

    def build(self, input_shape):
        self.dense = layers.Dense(4)
        self.norm = layers.BatchNormalization()
        self.dense.build(input_shape)
        self.norm.build((*input_shape[:-1], 4))

    def call(self, inputs, training=None):
        return self.norm(self.dense(inputs), training=training)


def _attention():
    inputs = keras.Input((6, 4))
    layer = layers.MultiHeadAttention(2, 2)
    return keras.Model(inputs, layer(inputs, inputs)), layer


def _embeddings():
    inputs = keras.Input((6,), dtype="int32")
    layer = TokenAndPosition(9, 6, 4)
    return keras.Model(inputs, layer(inputs)), layer


def _block():
    inputs = keras.Input((6, 4))
    layer = Block()
    return keras.Model(inputs, layer(inputs)), layer


def _nested():
    inner, layer = _attention()
    inputs = keras.Input((6, 4))
    outputs = layers.Dense(3)(inner(inputs))
    return keras.Model(inputs, outputs), layer


BUILDERS = (_attention, _embeddings, _block, _nested)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda b: b.__name__[1:])
def test_layers_that_are_created_late_stay_frozen(build):
    model, layer = build()
    layer.trainable = False

    copy = copy_model(model)

    flags = [variable.trainable for variable in copy.variables]
    assert flags == [variable.trainable for variable in model.variables]
    assert not all(flags)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda b: b.__name__[1:])
def test_saved_models_stay_frozen(build, tmp_path):
    model, layer = build()
    layer.trainable = False
    qmodel = codeq_keras.quantize_model(model)
    objects = {"TokenAndPosition": TokenAndPosition}

    qmodel.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(
        tmp_path / "model.keras", custom_objects=objects
    )

    flags = [v.trainable for v in loaded.latent_model.variables]
    assert flags == [variable.trainable for variable in model.variables]


def test_annotated_models_stay_frozen():
    model, layer = _nested()
    layer.trainable = False

    annotated = codeq_keras.quantize_annotate_model(model)
    qmodel = codeq_keras.quantize_apply(annotated)

    flags = [v.trainable for v in qmodel.latent_model.variables]
    assert flags == [variable.trainable for variable in model.variables]


def test_one_variable_of_a_layer_stays_frozen():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    model.layers[0].kernel.trainable = False

    copy = copy_model(model)

    assert [v.name for v in copy.trainable_variables] == ["bias"]


def test_frozen_batch_norm_that_is_created_late_rests():
    model, layer = _block()
    layer.trainable = False

    copy = copy_model(model)
    copy(np.ones((2, 6, 4)), training=True)

    for one, other in zip(copy.variables, model.variables, strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(other))


def test_model_that_was_not_compiled_is_saved(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    qmodel = codeq_keras.quantize_model(model)

    qmodel.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not loaded.compiled


def test_statistics_without_quantizers_are_those_of_plain_training():
    plain = keras.Sequential(
        [keras.Input((5,)), layers.Dense(4), layers.BatchNormalization()]
    )
    off = codeq_keras.quantize_model(plain, overrides={"": None})
    x = np.random.default_rng(0).normal(size=(8, 5))

    for model in (plain, off):
        model.compile("sgd", "mse", run_eagerly=True)
        model.fit(x, np.zeros((8, 4)), epochs=2, shuffle=False, verbose=0)

    latent = off.latent_model.variables
    for one, other in zip(plain.variables, latent, strict=True):
        if one.name.startswith("moving"):
            np.testing.assert_array_equal(np.array(other), np.array(one))
