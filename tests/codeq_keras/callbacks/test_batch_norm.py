"""BatchNorm statistics of the deployed weights: function and callback."""

import keras
import numpy as np
import pytest
from support.training import compile_and_fit

import codeq_keras


@pytest.fixture
def qmodel(cnn):
    return codeq_keras.quantize_model(cnn)


def test_reestimate_batch_norm_equals_the_statistics_of_the_data(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn)
    x = data[0]
    logit = float(qmodel.kernels[0].quantizer.dead_zone_logit)

    codeq_keras.reestimate_batch_norm(qmodel, [x])

    stripped = codeq_keras.strip_quantizers(qmodel)
    to_numpy = keras.ops.convert_to_numpy
    features = to_numpy(stripped.get_layer("conv")(x))
    norm = qmodel.latent_model.get_layer("norm")
    # float32 sums over 2304 values in another order.
    np.testing.assert_allclose(
        to_numpy(norm.moving_mean), features.mean((0, 1, 2)), atol=1e-5
    )
    np.testing.assert_allclose(
        to_numpy(norm.moving_variance), features.var((0, 1, 2)), rtol=1e-4
    )
    assert float(qmodel.kernels[0].quantizer.dead_zone_logit) == logit


def test_shared_layer_gets_the_average_of_its_calls():
    inputs = [keras.Input((1,)), keras.Input((1,))]
    norm = keras.layers.BatchNormalization()
    model = keras.Model(inputs, [norm(tensor) for tensor in inputs])
    low, high = np.float32([[0.0], [2.0]]), np.float32([[10.0], [14.0]])

    codeq_keras.reestimate_batch_norm(model, [([low, high],)])

    assert float(norm.moving_mean[0]) == (1 + 12) / 2
    assert float(norm.moving_variance[0]) == (1 + 4) / 2


@pytest.mark.filterwarnings("ignore:.*on layer 'unused':UserWarning")
def test_layer_that_is_never_called_is_left_out():
    class Unused(keras.Model):
        def __init__(self):
            super().__init__()
            self.used = keras.layers.BatchNormalization()
            self.unused = keras.layers.BatchNormalization()

        def call(self, inputs):
            return self.used(inputs)

    model = Unused()
    batch = np.float32([[0.0], [2.0]])
    model(batch)

    codeq_keras.reestimate_batch_norm(model, [batch])

    assert float(model.used.moving_mean[0]) == 1


def test_reestimate_batch_norm_needs_data(qmodel):
    with pytest.raises(ValueError, match="at least one batch"):
        codeq_keras.reestimate_batch_norm(qmodel, [])


def test_failed_reestimation_leaves_the_statistics(cnn):
    norm = cnn.get_layer("norm")
    before = keras.ops.convert_to_numpy(norm.moving_variance).copy()

    with pytest.raises(ValueError, match="incompatible"):
        codeq_keras.reestimate_batch_norm(cnn, [np.zeros((2, 5, 5, 1))])

    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(norm.moving_variance), before
    )


# --- The callback -----------------------------------------------------------


def statistics(model):
    norm = model.latent_model.get_layer("norm")
    return [
        keras.ops.convert_to_numpy(norm.moving_mean),
        keras.ops.convert_to_numpy(norm.moving_variance),
    ]


def test_fit_leaves_statistics_of_its_last_weights(qmodel, data):
    batches = [data[0]]
    callback = codeq_keras.BatchNormReestimation(batches)
    compile_and_fit(qmodel, data, callbacks=[callback])

    left = statistics(qmodel)
    codeq_keras.reestimate_batch_norm(qmodel, batches)

    np.testing.assert_array_equal(left, statistics(qmodel))


def test_history_validates_what_is_deployed(qmodel, data):
    x, y = data
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))

    history = qmodel.fit(
        x[:48],
        y[:48],
        epochs=2,
        verbose=0,
        validation_data=(x[48:], y[48:]),
        callbacks=[codeq_keras.BatchNormReestimation([x[:48]])],
    )

    loss = qmodel.evaluate(x[48:], y[48:], verbose=0)
    # The same weights and statistics; the means run over one batch.
    assert history.history["val_loss"][-1] == pytest.approx(loss, rel=1e-5)


def test_no_batch_but_the_given_ones_is_used(qmodel, data):
    """Validation data far from the rest leaves no trace."""
    x, y = data
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))

    qmodel.fit(
        x,
        y,
        verbose=0,
        validation_data=(x + 1000, y),
        callbacks=[codeq_keras.BatchNormReestimation([x])],
    )

    left = statistics(qmodel)
    codeq_keras.reestimate_batch_norm(qmodel, [x])
    np.testing.assert_array_equal(left, statistics(qmodel))


def test_evaluate_changes_no_statistics(qmodel, data):
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    before = statistics(qmodel)

    qmodel.evaluate(
        *data,
        verbose=0,
        callbacks=[codeq_keras.BatchNormReestimation([data[0]])],
    )

    np.testing.assert_array_equal(before, statistics(qmodel))


def test_generator_is_refused(data):
    with pytest.raises(ValueError, match="Received: generator"):
        codeq_keras.BatchNormReestimation(x for x in data)


X = np.zeros((8, 8, 8, 3), "float32")


@pytest.mark.parametrize(
    "dataset",
    [X, (X, np.zeros(8)), {"images": X}, keras.ops.convert_to_tensor(X), None],
)
def test_what_are_no_batches_is_refused_before_the_training(qmodel, dataset):
    refused = pytest.raises(ValueError, match="`dataset` must be batches")
    with refused:
        codeq_keras.BatchNormReestimation(dataset)
    with refused:
        codeq_keras.reestimate_batch_norm(qmodel, dataset)


@pytest.mark.parametrize("model", [None, "model.keras"])
def test_statistics_of_what_is_no_model_are_refused(model):
    with pytest.raises(ValueError, match="load"):
        codeq_keras.reestimate_batch_norm(model, [X])
