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
    qmodel.compile("sgd", "mse")
    x = data[0]
    y = cnn.predict(x, verbose=0)

    with pytest.raises(ValueError, match="Give another as"):
        qmodel.fit(x, y, verbose=0, callbacks=[Distillation(cnn)])


def test_plain_model_is_refused(cnn, data):
    with pytest.raises(ValueError, match="quantize_model"):
        compile_and_fit(cnn, data, callbacks=[Distillation(cnn)])
