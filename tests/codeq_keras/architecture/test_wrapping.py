"""A quantized functional model answers as the functional model does."""

import keras
import numpy as np
import pytest
from keras import layers

import codeq_keras

NAMES = ("input_shape", "output_shape", "output_names")


def two_heads():
    inputs = keras.Input((6,), name="x")
    hidden = layers.Dense(5, activation="relu", name="body")(inputs)
    kind = layers.Dense(4, name="kind")(hidden)
    box = layers.Dense(2, name="box")(hidden)
    return keras.Model(inputs, [kind, box])


def structures():
    a, b = keras.Input((6,), name="a"), keras.Input((3,), name="b")
    joined = layers.Concatenate()([a, b])
    outputs = {"p8": layers.Dense(4)(joined), "p16": layers.Dense(2)(joined)}
    return keras.Model({"a": a, "b": b}, outputs)


def tokens():
    inputs = keras.Input((7,), dtype="int32")
    return keras.Model(inputs, layers.Dense(3)(layers.Embedding(9, 4)(inputs)))


def sequential():
    return keras.Sequential([keras.Input((6,)), layers.Dense(3, name="head")])


@keras.saving.register_keras_serializable(package="test_wrapping")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 6), "float32"))
    return model


MODELS = {
    "two heads": two_heads,
    "dicts": structures,
    "tokens": tokens,
    "sequential": sequential,
    "subclassed": subclassed,
}


@pytest.fixture(params=MODELS)
def model(request):
    keras.utils.set_random_seed(0)
    return MODELS[request.param]()


@pytest.fixture
def heads():
    keras.utils.set_random_seed(0)
    return two_heads()


def samples(model, size=16):
    """A batch in the structure of the inputs."""
    rng = np.random.default_rng(0)
    if isinstance(model, Subclassed):
        return rng.normal(size=(size, 6)).astype("float32")
    is_sequential = isinstance(model, keras.Sequential)
    return keras.tree.map_structure(
        lambda tensor: rng.integers(0, 9, (size, *tensor.shape[1:])).astype(
            tensor.dtype
        ),
        model.inputs[0] if is_sequential else model.input,
    )


def assert_equal(left, right):
    pairs = zip(
        keras.tree.flatten(left), keras.tree.flatten(right), strict=True
    )
    for a, b in pairs:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("name", NAMES)
def test_attributes_are_those_of_the_model(model, name):
    qmodel = codeq_keras.quantize_model(model)

    assert hasattr(qmodel, name) == hasattr(model, name)
    if hasattr(model, name):
        assert getattr(qmodel, name) == getattr(model, name)


def test_layers_are_those_of_the_model(model):
    qmodel = codeq_keras.quantize_model(model)

    kinds = [type(layer) for layer in model.layers]
    assert [type(layer) for layer in qmodel.layers] == kinds
    for asked in ({"index": len(kinds) - 1}, {"name": qmodel.layers[-1].name}):
        with pytest.warns(UserWarning, match="computes in float"):
            found = qmodel.get_layer(**asked)
        assert found is qmodel.layers[-1]


def test_inputs_and_outputs_are_described_as_the_models(model):
    qmodel = codeq_keras.quantize_model(model)
    if isinstance(model, Subclassed):
        assert not hasattr(qmodel, "inputs")
        assert not hasattr(qmodel, "outputs")
        return

    for own, plain in (
        (qmodel.inputs, model.inputs),
        (qmodel.outputs, model.outputs),
    ):
        assert [(t.shape, t.dtype) for t in own] == [
            (t.shape, t.dtype) for t in plain
        ]
    assert [t.name for t in qmodel.inputs] == [
        t.name for t in qmodel.latent_model.inputs
    ]


def test_graph_from_inputs_to_outputs_is_quantized(model):
    if isinstance(model, Subclassed):
        pytest.skip("It has no graph.")
    qmodel = codeq_keras.quantize_model(model)
    x = samples(model)

    outer = keras.Model(qmodel.input, qmodel.output)

    assert_equal(outer.predict(x, verbose=0), qmodel.predict(x, verbose=0))


@pytest.mark.parametrize("start", ["input", "first layer"])
def test_graph_to_a_layer_inside_is_refused_not_silently_float(heads, start):
    qmodel = codeq_keras.quantize_model(heads)
    inputs = qmodel.input if start == "input" else qmodel.layers[0].output

    with pytest.warns(UserWarning, match="ask `codeq_keras.strip_quantizers"):
        outputs = qmodel.get_layer("body").output

    with pytest.raises(ValueError, match="is used 2 times"):
        keras.Model(inputs, outputs)


def test_features_come_from_the_stripped_model(heads):
    qmodel = codeq_keras.quantize_model(heads)
    stripped = codeq_keras.strip_quantizers(qmodel)
    x = samples(heads)

    features = keras.Model(stripped.input, stripped.get_layer("body").output)

    body = codeq_keras.quantized_weights(qmodel)["body/kernel"].dequantize()
    expected = np.maximum(x @ body, 0.0)
    # Two float32 matrix products of 6 terms, in any order.
    np.testing.assert_allclose(
        features.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-5
    )


def test_losses_metrics_and_labels_go_by_output_name(heads):
    qmodel = codeq_keras.quantize_model(heads)
    x = samples(heads)
    labels = {"kind": np.zeros(16, "int32"), "box": np.zeros((16, 2))}
    stop = keras.callbacks.EarlyStopping("val_kind_accuracy", mode="max")
    histories = []

    for model in (heads, qmodel):
        cross_entropy = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True
        )
        model.compile(
            "adam",
            loss={"box": "mse", "kind": cross_entropy},
            loss_weights={"kind": 1.0, "box": 0.5},
            metrics={"box": ["mae"], "kind": ["accuracy"]},
        )
        histories.append(
            model.fit(
                x,
                labels,
                validation_data=(x, labels),
                callbacks=[stop],
                verbose=0,
            ).history
        )

    assert histories[1].keys() == histories[0].keys()
    assert "val_kind_accuracy" in histories[1]
    assert stop.best is not None


@pytest.mark.parametrize(
    "method", ["fit", "evaluate", "train_on_batch", "test_on_batch"]
)
def test_missing_compile_is_what_keras_calls_it(heads, method):
    x = samples(heads)
    messages = []

    for model in (heads, codeq_keras.quantize_model(heads)):
        with pytest.raises(ValueError, match="compile") as raised:
            getattr(model, method)(x, x)
        messages.append(str(raised.value))

    assert messages[1] == messages[0]


def twice():
    inputs = keras.Input((6,), name="x")
    hidden = layers.Dense(5, name="hidden")(inputs)
    return keras.Model(inputs, [hidden, layers.Dense(3)(hidden), hidden])


def nested():
    inputs = keras.Input((6,), name="x")
    hidden = layers.Dense(5)(inputs)
    boxes = {"near": layers.Dense(2)(hidden), "far": layers.Dense(4)(hidden)}
    return keras.Model(inputs, {"kind": layers.Dense(3)(hidden), "box": boxes})


@pytest.mark.parametrize("make", [twice, nested])
@pytest.mark.parametrize("activation_bit_width", [None, 8])
def test_outputs_that_share_a_tensor_or_are_nested_train_and_load(
    make, activation_bit_width, tmp_path
):
    model = make()
    qmodel = codeq_keras.quantize_model(
        model, activation_bit_width=activation_bit_width
    )
    x = samples(model)
    y = keras.tree.map_structure(np.ones_like, model.predict(x, verbose=0))
    losses = keras.tree.map_structure(lambda _: "mse", y)
    logs = []
    for each in (model, qmodel):
        each.compile("adam", losses)
        logs.append(each.fit(x, y, verbose=0).history.keys())
    qmodel.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")

    assert logs[1] == logs[0]
    outputs = qmodel.predict(x, verbose=0)
    keras.tree.assert_same_structure(outputs, y)
    assert_equal(loaded.predict(x, verbose=0), outputs)


def test_summary_lists_the_layers(heads):
    lines = []

    codeq_keras.quantize_model(heads).summary(
        expand_nested=True, print_fn=lines.append
    )

    for name in ("x (InputLayer)", "body (Dense)", "kind (Dense)"):
        assert name in "\n".join(lines)


def test_clone_and_json_have_the_architecture(model):
    qmodel = codeq_keras.quantize_model(
        model, codeq_keras.CoDeQConfig(bit_width=3)
    )
    x = samples(model)

    for copy in (
        keras.models.clone_model(qmodel),
        keras.models.model_from_json(qmodel.to_json()),
    ):
        assert isinstance(copy, codeq_keras.model.QuantizedModel)
        assert copy.config == qmodel.config
        assert copy.count_params() == qmodel.count_params()
        copy.set_weights(qmodel.get_weights())
        assert_equal(copy.predict(x, verbose=0), qmodel.predict(x, verbose=0))


# Keras passes to jax2tf what JAX is about to remove.
@pytest.mark.filterwarnings("ignore:.*native_serialization")
def test_saved_model_computes_the_quantized_outputs(model, tmp_path):
    tf = pytest.importorskip("tensorflow")
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    x = samples(model)
    qmodel(x, training=True)

    qmodel.export(str(tmp_path / "model"), verbose=False)

    loaded = tf.saved_model.load(str(tmp_path / "model"))
    # The same float32 operations, fused in another way.
    for a, b in zip(
        keras.tree.flatten(loaded.serve(x)),
        keras.tree.flatten(qmodel.predict(x, verbose=0)),
        strict=True,
    ):
        np.testing.assert_allclose(np.asarray(a), b, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="Keras has it there only."
)
@pytest.mark.parametrize("by", ["export", "converter"])
def test_float_tflite_of_keras_computes_the_quantized_outputs(
    model, tmp_path, by
):
    import tensorflow as tf

    from tflite_export.runtime.interpreter import predict

    qmodel = codeq_keras.quantize_model(model)
    x = samples(model)
    if by == "export":
        path = tmp_path / "model.tflite"
        qmodel.export(str(path), format="litert", verbose=False)
        content = path.read_bytes()
    else:
        content = tf.lite.TFLiteConverter.from_keras_model(qmodel).convert()

    outputs = predict(content, keras.tree.flatten(x), ["a", "b"])

    predicted = keras.tree.flatten(qmodel.predict(x, verbose=0))
    expected = {a.shape: a for a in predicted}
    for output in outputs.values():
        # Matrix products of 6 and 5 terms, of another library.
        np.testing.assert_allclose(
            output, expected[output.shape], rtol=1e-4, atol=1e-4
        )


def test_quantization_of_keras_is_refused(heads):
    qmodel = codeq_keras.quantize_model(heads)
    before = qmodel.get_weights()

    with pytest.raises(ValueError, match="quantized already"):
        qmodel.quantize("int8")

    assert_equal(qmodel.get_weights(), before)


def test_training_and_saving_keep_the_structure(model, tmp_path):
    qmodel = codeq_keras.quantize_model(model)
    x = samples(model)
    y = keras.tree.map_structure(np.zeros_like, qmodel.predict(x, verbose=0))
    qmodel.compile("adam", "mse")
    qmodel.fit(x, y, verbose=0)
    qmodel.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")

    kinds = [type(layer) for layer in qmodel.layers]
    assert [type(layer) for layer in loaded.layers] == kinds
    assert_equal(loaded.get_weights(), qmodel.get_weights())
    assert_equal(loaded.predict(x, verbose=0), qmodel.predict(x, verbose=0))
