"""from_tf_keras: the same state gives the same codes in Keras 3."""

import keras
import numpy as np
import pytest
from keras import layers
from support.qat_models import compiled, images, quantize

import codeq_keras
from codeq_keras import CoDeQConfig
from codeq_keras.tfmot import (
    CompressionBudget,
    from_tf_keras,
    quantized_weights,
    report,
    to_tf_keras,
)


def architecture():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="conv_bn"),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.BatchNormalization(name="depthwise_bn"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(8, name="hidden"),
            layers.BatchNormalization(name="hidden_bn"),
            layers.ReLU(),
            layers.Dense(4, name="narrow"),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )


@pytest.fixture(scope="module", params=["dead_zone", "uniform"])
def pair(request):
    """A model trained with TFMOT, and the same in Keras 3."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = images(rng, 256)
    model = architecture()
    qat_model = compiled(
        quantize(
            to_tf_keras(model),
            CoDeQConfig(bit_width="learned", level_grid=request.param),
            overrides={"head": None, "narrow": CoDeQConfig(bit_width=3)},
        )
    )
    qat_model.fit(
        x,
        y,
        batch_size=16,
        epochs=20,  # 320 steps, as a budget takes.
        verbose=0,
        callbacks=[CompressionBudget(relative_bops=0.1)],
    )
    return qat_model, from_tf_keras(qat_model, model), (x, y)


def test_codes_of_every_kernel_are_identical(pair):
    qat_model, qmodel, _ = pair
    here, there = (
        codeq_keras.quantized_weights(qmodel),
        {
            path.replace("depthwise_kernel", "kernel"): weight
            for path, weight in quantized_weights(qat_model).items()
        },
    )

    assert list(here) == list(there)
    for path, weight in here.items():
        expected = there[path]
        np.testing.assert_array_equal(
            weight.codes.ravel(), expected.codes.ravel(), err_msg=path
        )
        np.testing.assert_array_equal(weight.scale, expected.scale)
        assert weight.bit_width == expected.bit_width


def test_reports_are_the_same(pair):
    qat_model, qmodel, _ = pair

    here, there = codeq_keras.report(qmodel), report(qat_model)

    for name in ("sparsity", "mean_bit_width", "relative_bops", "size_bytes"):
        assert getattr(here, name) == getattr(there, name), name


def test_model_of_keras_3_predicts_the_same_classes(pair):
    qat_model, qmodel, (x, _) = pair

    here = qmodel.predict(x, verbose=0).argmax(-1)
    there = qat_model.predict(x, verbose=0).argmax(-1)

    # It lacks the 8-bit activations.
    assert np.mean(here == there) > 0.95


def test_training_goes_on_in_keras_3(pair):
    _, qmodel, (x, y) = pair
    qmodel.compile("adam", "sparse_categorical_crossentropy")

    history = qmodel.fit(x, y, epochs=1, verbose=0)

    assert np.isfinite(history.history["loss"][0])


def test_weight_without_counterpart_is_named():
    qat_model = quantize(to_tf_keras(architecture()))
    other = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="unknown")]
    )

    with pytest.raises(ValueError, match="unknown/kernel"):
        from_tf_keras(qat_model, other)
