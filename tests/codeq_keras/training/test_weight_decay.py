"""The optimizer's weight decay is for the weights."""

import keras
import numpy as np
import pytest

import codeq_keras


def compiled(cnn, level_grid, optimizer):
    config = codeq_keras.CoDeQConfig(level_grid=level_grid)
    qmodel = codeq_keras.quantize_model(cnn, config)
    qmodel.compile(optimizer, loss=no_task)
    for logits in qmodel.states[0].trainable_variables:
        logits.assign(keras.ops.ones(logits.shape))
    return qmodel


@keras.saving.register_keras_serializable(package="tests")
def no_task(y, outputs):
    """No gradient: what moves, weight decay has moved."""
    return 0.0 * outputs


def decayed(qmodel, data):
    """The paths of the variables that a training moves."""
    before = [np.array(v) for v in qmodel.trainable_variables]
    qmodel.fit(*data, batch_size=64, verbose=0)
    pairs = zip(qmodel.trainable_variables, before, strict=True)
    return {v.path for v, old in pairs if not np.array_equal(np.array(v), old)}


# The biases begin at zero, and stay there.
KERNELS = {"conv/kernel", "depthwise/kernel", "head/kernel"}


@pytest.mark.parametrize("level_grid", ["uniform", "paper"])
def test_logits_and_names_that_the_user_excluded_before_are_spared(
    cnn, data, level_grid
):
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["gamma"])

    qmodel = compiled(cnn, level_grid, optimizer)

    assert decayed(qmodel, data) == KERNELS | {"norm/beta"}


def test_variable_that_the_user_excluded_before_is_spared(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn)
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay([qmodel.kernels[0].variable])
    qmodel.compile(optimizer, loss=no_task)

    assert "conv/kernel" not in decayed(qmodel, data)


def test_logits_are_spared_if_the_user_excludes_others_later(cnn, data):
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    qmodel = compiled(cnn, "uniform", optimizer)

    qmodel.optimizer.exclude_from_weight_decay(var_names=["gamma", "beta"])

    assert decayed(qmodel, data) == KERNELS


def test_logits_of_a_loaded_model_are_spared(cnn, data, tmp_path):
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    compiled(cnn, "uniform", optimizer).save(tmp_path / "model.keras")

    qmodel = keras.saving.load_model(tmp_path / "model.keras")

    assert decayed(qmodel, data) == KERNELS | {"norm/beta", "norm/gamma"}
