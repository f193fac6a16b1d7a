"""CoDeQScheme in quantize_apply: what is quantized, and what it computes."""

import re

import numpy as np
import pytest
import tf_keras
from support.qat_models import (
    every_pattern,
    layers,
    quantize,
    randomize,
    sequential,
)
from tensorflow_model_optimization.quantization.keras import (
    QuantizeWrapperV2,
    default_8bit,
    quantize_annotate_layer,
    quantize_annotate_model,
    quantize_apply,
)
from tensorflow_model_optimization.quantization.keras.graph_transformations import (  # noqa: E501
    model_transformer,
)

from codeq_keras import CoDeQConfig
from codeq_keras.tfmot import (
    CoDeQScheme,
    DeadZoneQuantizeConfig,
    quantize_scope,
    quantized_weights,
    report,
)
from codeq_keras.tfmot.dense_batch_norm import dense_batch_norm_transforms


def configs(qat_model):
    """The QuantizeConfig of every wrapped layer by the layer's name."""
    return {
        wrapper.layer.name: wrapper.quantize_config
        for wrapper in qat_model.layers
        if isinstance(wrapper, QuantizeWrapperV2)
    }


def test_every_kernel_is_quantized_in_every_pattern():
    model = every_pattern()
    num_kernels = sum(
        isinstance(layer, layers.Dense | layers.Conv2D | layers.DepthwiseConv2D)
        for layer in model.layers
    )

    weights = quantized_weights(quantize(model))

    assert len(weights) == num_kernels + 2  # The separable one is two.
    assert {"conv_relu/kernel", "branch_a/kernel", "dense_relu/kernel"} < set(
        weights
    )


@pytest.mark.parametrize(
    "activation",
    [layers.ReLU(), layers.Activation("relu")],
    ids=["ReLU", "Activation"],
)
@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(4, 3, name="x"),
        layers.DepthwiseConv2D(3, name="x"),
        layers.Dense(4, name="x"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_kernel_in_front_of_a_relu_layer_is_not_skipped(layer, activation):
    model = sequential(
        type(layer).from_config(layer.get_config()),
        type(activation).from_config(activation.get_config()),
    )

    config = configs(quantize(model))["x"]

    assert isinstance(config, DeadZoneQuantizeConfig)
    assert not config.quantize_activation  # So that the ReLU is fused.


def test_kernel_left_to_tfmot_in_front_of_a_relu_layer_has_8_bits():
    model = sequential(layers.Conv2D(4, 3, name="x"), layers.ReLU())

    with pytest.raises(ValueError, match="kernels CoDeQ quantizes"):
        report(quantize(model, overrides={"x": None}))
    config = configs(quantize(model, overrides={"x": None}))["x"]

    assert config.weight_attrs == ["kernel"]
    assert config.activation_attrs == []


def test_activations_are_those_of_the_default_scheme():
    annotated = quantize_annotate_model(
        sequential(
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        )
    )

    ours = quantize_apply(annotated, scheme=CoDeQScheme())
    default = quantize_apply(annotated)

    def ranges(model):
        names = [weight.name.split("/")[-1] for weight in model.weights]
        return [
            re.sub(r"_\d+_", "_", name)
            for name in names
            if name.endswith("_max:0") and "kernel" not in name
        ]

    assert ranges(ours) == ranges(default)


def test_float_model_is_not_changed(rng):
    model = sequential(layers.Dense(3), shape=(4,))
    before = model.get_weights()

    quantize(model)

    np.testing.assert_equal(model.get_weights(), before)


def test_8_bit_model_computes_what_the_float_model_does(rng):
    model = randomize(every_pattern(), rng)
    x = rng.random((16, 8, 8, 3)).astype("float32")
    qat_model = quantize(model, CoDeQConfig(bit_width=8, range_quantile=1.0))
    qat_model.get_layer(index=1)(x, training=True)  # The range of the input.

    # Ranges of the activations are TFMOT's initial ±6: 24 of 255 steps a unit.
    difference = np.abs(qat_model(x, training=False) - model(x, training=False))

    assert difference.max() < 0.1


def test_first_matching_override_wins():
    model = sequential(layers.Dense(3, name="a"), layers.Dense(3, name="b"))

    bits = {
        kernel.path: kernel.bit_width
        for kernel in report(
            quantize(
                model,
                CoDeQConfig(bit_width=4),
                overrides={"^a": CoDeQConfig(bit_width=2)},
            )
        ).layers
    }

    assert bits == {"a/kernel": 2, "b/kernel": 4}


def test_override_that_matches_nothing_is_refused_with_the_paths():
    model = sequential(layers.Dense(3, name="a"))

    with pytest.raises(ValueError, match=r"Received: 'nothing'.*a/kernel"):
        quantize(model, overrides={"nothing": None})


def test_annotated_config_wins_and_keeps_batch_norm_attached():
    model = sequential(
        quantize_annotate_layer(
            layers.Conv2D(4, 3, name="x"),
            DeadZoneQuantizeConfig(CoDeQConfig(bit_width=2)),
        ),
        layers.BatchNormalization(),
        layers.ReLU(),
    )

    qat_model = quantize(model)

    assert quantized_weights(qat_model)["x/kernel"].bit_width == 2
    # Nothing between the convolution and its BatchNormalization.
    conv = qat_model.get_layer("quant_x")
    assert not [w.name for w in conv.weights if "activation" in w.name]


def test_foreign_config_is_left_alone():
    foreign = default_8bit.Default8BitQuantizeRegistry().get_quantize_config(
        layers.Dense(1)
    )
    model = sequential(
        quantize_annotate_layer(layers.Dense(3, name="x"), foreign),
        layers.Dense(3, name="y"),
    )

    with quantize_scope():
        qat_model = quantize(model)

    assert list(quantized_weights(qat_model)) == ["y/kernel"]


def test_layer_that_is_not_annotated_is_not_quantized():
    model = sequential(
        layers.Dense(3, name="x"), quantize_annotate_layer(layers.Dense(2))
    )

    qat_model = quantize_apply(model, scheme=CoDeQScheme())

    assert len(quantized_weights(qat_model)) == 1


def test_unsupported_layer_is_refused_by_name():
    model = sequential(layers.UpSampling3D(name="up"), shape=(2, 2, 2, 1))

    with pytest.raises(RuntimeError, match=r"Layer up:.*not supported"):
        quantize(model)


def test_model_without_annotation_is_refused():
    model = sequential(layers.Dense(3))

    with pytest.raises(ValueError, match="at least one layer"):
        quantize_apply(model, scheme=CoDeQScheme())


@pytest.mark.parametrize(
    "activation",
    [None, layers.ReLU(), layers.Activation("relu")],
    ids=["linear", "ReLU", "Activation"],
)
@pytest.mark.parametrize("shape", [(6,), (5, 6)], ids=["matrix", "sequence"])
def test_dense_with_batch_norm_becomes_the_same_convolution(
    rng, shape, activation
):
    members = [layers.Dense(7, name="x"), layers.BatchNormalization()]
    if activation is not None:
        members.append(type(activation).from_config(activation.get_config()))
    model = randomize(sequential(*members, shape=shape), rng)
    x = rng.normal(size=(4, *shape)).astype("float32")

    rewritten, _ = model_transformer.ModelTransformer(
        model, dense_batch_norm_transforms()
    ).transform()

    assert rewritten.get_layer("x").kernel.shape == (1, 1, 6, 7)
    np.testing.assert_allclose(
        rewritten(x, training=False), model(x, training=False), atol=1e-6
    )


@pytest.mark.parametrize("shape", [(6,), (5, 6)], ids=["matrix", "sequence"])
def test_kernel_of_the_convolution_is_quantized(shape):
    model = sequential(
        layers.Dense(7, name="x"), layers.BatchNormalization(), shape=shape
    )

    qat_model = quantize(model)

    assert quantized_weights(qat_model)["x/kernel"].codes.shape == (1, 1, 6, 7)
    assert qat_model.output_shape == model.output_shape


def test_dense_with_constraint_is_not_rewritten():
    constraint = tf_keras.constraints.MaxNorm()
    model = sequential(
        layers.Dense(7, name="x", kernel_constraint=constraint),
        layers.BatchNormalization(),
        shape=(6,),
    )

    weights = quantized_weights(quantize(model))

    assert weights["x/kernel"].codes.shape == (6, 7)


def test_functional_model_with_residual_and_shared_input(rng):
    inputs = tf_keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = layers.ReLU()(layers.Add()([x, inputs]))
    x = layers.GlobalAveragePooling2D()(x)
    outputs = [layers.Dense(3, name="a")(x), layers.Dense(2, name="b")(x)]
    model = tf_keras.Model(inputs, outputs)

    qat_model = quantize(model)

    assert [tuple(o.shape) for o in qat_model.outputs] == [
        (None, 3),
        (None, 2),
    ]
    assert len(quantized_weights(qat_model)) == 3


def test_report_counts_macs_of_each_layer():
    qat_model = quantize(
        sequential(
            layers.Conv2D(4, 3, name="c"),
            layers.DepthwiseConv2D(3, name="d"),
            layers.Flatten(),
            layers.Dense(5, name="e"),
        )
    )

    macs = {k.path: k.num_macs for k in report(qat_model).layers}

    assert macs == {
        "c/kernel": (3 * 3 * 3 * 4) * (6 * 6),
        "d/depthwise_kernel": (3 * 3 * 4) * (4 * 4),
        "e/kernel": (4 * 4 * 4) * 5,
    }


def test_grid_of_the_paper_has_no_codes():
    qat_model = quantize(
        sequential(layers.Dense(3)), CoDeQConfig(level_grid="paper")
    )

    with pytest.raises(ValueError, match="level_grid='paper'"):
        quantized_weights(qat_model)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"config": 4}, r"Write `CoDeQConfig\(bit_width=4\)`"),
        ({"overrides": ["head"]}, "`overrides` must be a map"),
        ({"regularizer": "l2"}, "must be a CompressionRegularizer"),
    ],
)
def test_argument_of_another_kind_is_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        CoDeQScheme(**argument)
