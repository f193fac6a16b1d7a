"""`Distillation`: the teacher's outputs as a second target."""

import keras
import numpy as np
import pytest
from support.training import compile_and_fit

import codeq_keras
from codeq_keras import Distillation
from codeq_keras.callbacks.distillation import SoftenedDivergence

ADAM = {
    "class_name": "Adam",
    "config": {"learning_rate": 1e-2},
}


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.mark.parametrize("from_logits", [True, False])
def test_distance_is_the_divergence_of_softened_classes(rng, from_logits):
    teacher, student = rng.normal(size=(2, 5, 4))
    distance = SoftenedDivergence(temperature=3.0, from_logits=from_logits)
    p, q = softmax(teacher / 3), softmax(student / 3)
    expected = 9 * np.mean(np.sum(p * np.log(p / q), -1))

    if not from_logits:
        teacher, student = softmax(teacher), softmax(student)
    result = distance(teacher.astype("float32"), student.astype("float32"))

    # float32 logarithms.
    assert float(result) == pytest.approx(expected, rel=1e-4)


def test_student_of_wrong_labels_learns_from_its_teacher(wide_cnn, data):
    """All labels are 0; the teacher knows better."""
    x, y = data
    compile_and_fit(wide_cnn, data, epochs=20, optimizer=ADAM)

    def accuracy(*callbacks):
        qmodel = codeq_keras.quantize_model(wide_cnn)
        compile_and_fit(
            qmodel,
            (x, np.zeros_like(y)),
            epochs=20,
            optimizer=ADAM,
            callbacks=list(callbacks),
        )
        return np.mean(qmodel.predict(x, verbose=0).argmax(-1) == y)

    alone = accuracy()
    taught = accuracy(Distillation(wide_cnn, weight=100.0))

    # A third of the labels are 0; 0.9 leaves room for the quantization.
    assert alone < 0.5
    assert taught > 0.9


def test_goes_with_a_budget(wide_cnn, data):
    qmodel = codeq_keras.quantize_model(wide_cnn)
    budget = codeq_keras.CompressionBudget(sparsity=0.6)

    history = compile_and_fit(
        qmodel, data, epochs=80, callbacks=[budget, Distillation(wide_cnn)]
    )

    # 0.5 points: what a budget promises.
    assert history.history["sparsity"][-1] == pytest.approx(0.6, abs=5e-3)


def test_ends_with_its_fit_and_stays_out_of_validation(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn)
    teacher = keras.models.clone_model(cnn)
    before = len(qmodel.variables)
    qmodel.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))

    history = qmodel.fit(
        *data,
        verbose=0,
        validation_data=data,
        callbacks=[Distillation(teacher, weight=1e4)],
    )

    assert history.history["loss"][0] > 100 > history.history["val_loss"][0]
    assert qmodel.training_loss is None
    assert len(qmodel.variables) == before
    assert qmodel.fit(*data, verbose=0).history["loss"][0] < 100


def test_interrupted_fit_leaves_no_teacher_behind(cnn, data):
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    qmodel = codeq_keras.quantize_model(cnn)

    with pytest.raises(KeyboardInterrupt):
        compile_and_fit(
            qmodel, data, callbacks=[Distillation(cnn), Interrupt()]
        )

    assert qmodel.training_loss is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": 0}, "Received: weight=0"),
        ({"temperature": -1.0}, "Received: temperature=-1.0"),
    ],
)
def test_argument_out_of_range_is_refused(cnn, arguments, message):
    with pytest.raises(ValueError, match=message):
        Distillation(cnn, **arguments)


def test_other_losses_need_a_distance(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn)
    qmodel.compile("sgd", "poisson")
    x = data[0]
    y = cnn.predict(x, verbose=0)

    with pytest.raises(ValueError, match="Give another as"):
        qmodel.fit(x, y, verbose=0, callbacks=[Distillation(cnn)])


# --- Several outputs --------------------------------------------------------


class Detector(keras.Model):
    """Two outputs, whose names are known after a call only."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.heads = keras.layers.Dense(2), keras.layers.Dense(3)

    def call(self, x):
        box, kind = (head(x) for head in self.heads)
        return {"kind": kind, "box": box}


def detector(structure):
    if structure == "subclass":
        model = Detector()
        model(np.zeros((1, 4)))
        return model
    inputs = keras.Input((4,))
    box = keras.layers.Dense(2, name="box")(inputs)
    kind = keras.layers.Dense(3, name="kind")(inputs)
    outputs = {"kind": kind, "box": box}
    return keras.Model(inputs, [box, kind] if structure == "list" else outputs)


def packed(structure, box, kind):
    return [box, kind] if structure == "list" else {"box": box, "kind": kind}


def added_to_the_loss(structure, losses, **arguments):
    """The difference that a teacher makes to a loss, and both outputs."""
    keras.utils.set_random_seed(0)
    model, teacher = detector(structure), detector(structure)
    qmodel = codeq_keras.quantize_model(model)
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    y = packed(structure, np.zeros((8, 2)), np.zeros(8, "int32"))
    values = []
    for callbacks in [], [Distillation(teacher, **arguments)]:
        qmodel.compile(keras.optimizers.SGD(0.0), losses)
        fitted = qmodel.fit(x, y, verbose=0, callbacks=callbacks)
        values.append(fitted.history["loss"][0])
    pairs = [
        [np.array(a) for a in keras.tree.flatten(m(x))]
        for m in (teacher, qmodel)
    ]
    return values[1] - values[0], pairs


def divergence(target, outputs, temperature=2.0):
    p, q = softmax(target / temperature), softmax(outputs / temperature)
    return temperature**2 * np.mean(np.sum(p * np.log(p / q), -1))


CATEGORICAL = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize("structure", ["list", "dict", "subclass"])
def test_distances_of_several_outputs_add_up(structure):
    losses = packed(structure, "mse", CATEGORICAL)

    added, (target, outputs) = added_to_the_loss(structure, losses)

    expected = np.mean((target[0] - outputs[0]) ** 2)
    expected += divergence(target[1], outputs[1])
    # Differences of float32 sums.
    assert added == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("structure", ["list", "dict"])
@pytest.mark.parametrize(
    ("weight", "loss", "factors"),
    [
        (2.0, "mse", (2.0, 2.0)),
        ([3.0, 0.5], "mse", (3.0, 0.5)),
        ({"kind": 0.5, "box": 3.0}, ["mse", "mse"], (3.0, 0.5)),
        (1.0, {"kind": None, "box": "mse"}, (1.0, 0.0)),
    ],
)
def test_weight_and_loss_of_each_output(structure, weight, loss, factors):
    losses = packed(structure, "mse", CATEGORICAL)

    added, pairs = added_to_the_loss(
        structure, losses, weight=weight, loss=loss
    )

    squares = [np.mean((a - b) ** 2) for a, b in zip(*pairs, strict=True)]
    assert added == pytest.approx(np.dot(factors, squares), rel=1e-3)


def test_binary_crossentropy_takes_the_probabilities_of_the_teacher(rng):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    qmodel = codeq_keras.quantize_model(model)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    x = rng.normal(size=(8, 4)).astype("float32")
    values = []
    for callbacks in [], [Distillation(model)]:
        qmodel.compile(keras.optimizers.SGD(0.0), loss)
        fitted = qmodel.fit(x, np.zeros(8), verbose=0, callbacks=callbacks)
        values.append(fitted.history["loss"][0])

    labels = 1 / (1 + np.exp(-np.array(model(x))))
    expected = float(loss(labels, qmodel(x)))
    assert values[1] - values[0] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": {"box": "mse"}}, r"each output, \['box', 'kind'\]"),
        ({"loss": {"boxes": "mse", "kind": None}}, "each output"),
        ({"weight": [1.0]}, "Received: 1 entries"),
        ({"loss": {"box": None, "kind": None}}, "Received: none"),
    ],
)
def test_arguments_that_do_not_fit_the_outputs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        added_to_the_loss("list", ["mse", CATEGORICAL], **arguments)


def test_teacher_with_other_outputs_is_refused():
    qmodel = codeq_keras.quantize_model(detector("list"))
    qmodel.compile("sgd", ["mse", "mse"])
    x, y = np.zeros((8, 4)), [np.zeros((8, 2)), np.zeros((8, 3))]
    teacher = Distillation(detector("dict"))

    with pytest.raises(ValueError, match="must have the outputs of the model"):
        qmodel.fit(x, y, verbose=0, callbacks=[teacher])


@pytest.mark.parametrize(
    "argument", [{"weight": "1"}, {"weight": {"a": 0}}, {"temperature": None}]
)
def test_argument_that_is_no_positive_number_is_refused(argument):
    with pytest.raises(ValueError, match=r"must be a number in \(0, inf\)"):
        Distillation(detector("list"), **argument)


def test_plain_model_is_refused(cnn, data):
    with pytest.raises(ValueError, match="quantize_model"):
        compile_and_fit(cnn, data, callbacks=[Distillation(cnn)])


def test_second_teacher_is_refused(cnn, data):
    teachers = [Distillation(cnn), Distillation(cnn, weight=2.0)]

    with pytest.raises(ValueError, match="Keep one"):
        compile_and_fit(
            codeq_keras.quantize_model(cnn), data, callbacks=teachers
        )


def nested():
    inputs = keras.Input((4,))
    dense = [keras.layers.Dense(n, name=f"d{n}")(inputs) for n in (2, 3, 5)]
    heads = {"box": dense[0], "kind": {"fine": dense[1], "coarse": dense[2]}}
    return keras.Model(inputs, heads)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"loss": "mse"}, {"weight": {"box": 1.0, "kind": 2.0}}],
)
def test_nested_outputs_are_refused_before_the_training(arguments):
    model = nested()
    qmodel = codeq_keras.quantize_model(model)
    losses = {"box": "mse", "kind": {"fine": "mse", "coarse": "mse"}}
    qmodel.compile("sgd", losses)
    x = np.zeros((8, 4))
    before = [np.array(w) for w in qmodel.weights]

    with pytest.raises(ValueError, match="in one flat dict or list") as refusal:
        qmodel.fit(
            x,
            model.predict(x, verbose=0),
            verbose=0,
            callbacks=[Distillation(model, **arguments)],
        )

    assert "Return them" in str(refusal.value)
    for weight, value in zip(qmodel.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


KL = keras.distillation.LogitsDistillation(temperature=4.0)
MAE = keras.distillation.FeatureDistillation("mae")


def keras_distance(structure, loss, pairs):
    """The loss that Keras's own `Distiller` computes of the same outputs."""
    target, outputs = (packed(structure, *arrays) for arrays in pairs)
    inputs = keras.Input((4,))
    same = keras.Model(inputs, packed(structure, inputs, inputs))
    distiller = keras.distillation.Distiller(
        same, same, distillation_losses=loss, student_loss_weight=0.0
    )
    distiller.compile(loss=packed(structure, "mse", "mse"))
    distiller._extract_all_teacher_features = lambda x: {"final_output": target}
    return float(distiller.compute_loss(pairs[0][0], y_pred=outputs))


@pytest.mark.parametrize("structure", ["list", "dict"])
@pytest.mark.parametrize("kind", ["logits", "features"])
def test_losses_of_keras_have_the_values_of_its_distiller(structure, kind):
    single = packed(structure, "mse", "mae")
    if kind == "logits":
        single = packed(structure, "kl_divergence", "kl_divergence")
        loss = keras.distillation.LogitsDistillation(4.0, single)
    else:
        loss = keras.distillation.FeatureDistillation(single)
    losses = packed(structure, "mse", CATEGORICAL)

    added, pairs = added_to_the_loss(structure, losses, weight=0.5, loss=loss)

    expected = 0.5 * keras_distance(structure, loss, pairs)
    # Differences of float32 sums.
    assert added == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("loss", "distances"), [(MAE, (MAE, MAE)), ([MAE, KL], (MAE, KL))]
)
def test_losses_of_keras_go_to_each_output(loss, distances):
    losses = ["mse", CATEGORICAL]

    added, pairs = added_to_the_loss("list", losses, loss=loss)

    expected = sum(
        float(distance.compute_loss(*each))
        for distance, *each in zip(distances, *pairs, strict=True)
    )
    assert added == pytest.approx(expected, rel=1e-3)


def test_losses_of_inner_layers_are_refused(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn)
    inner = keras.distillation.FeatureDistillation("mse", "conv", "conv")

    with pytest.raises(ValueError, match="outputs of both models"):
        compile_and_fit(qmodel, data, callbacks=[Distillation(cnn, loss=inner)])


def test_losses_of_keras_refuse_sample_weights(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn)
    qmodel.compile("sgd", CATEGORICAL)
    weights = np.ones(len(data[1]), "float32")

    with pytest.raises(ValueError, match="know no sample weights"):
        qmodel.fit(
            *data,
            sample_weight=weights,
            verbose=0,
            callbacks=[Distillation(cnn, loss=KL)],
        )
