"""Budgets, logs, schedule and penalties."""

import csv
import warnings

import keras
import numpy as np
import pytest
from support.training import compile_and_fit

import codeq_keras
from codeq_keras import CompressionBudget, CompressionLogger
from codeq_keras.quantizers.logits import Logit
from codeq_keras.training.schedule import TrainingSchedule

LOGGED = ("sparsity", "mean_bit_width", "relative_bops")
# 4 steps an epoch: as many as a budget needs.
EPOCHS = 80


@pytest.fixture
def qmodel(cnn):
    return codeq_keras.quantize_model(cnn)


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.Adam(1e-3),
        keras.optimizers.AdamW(1e-3, weight_decay=0.01),
        keras.optimizers.SGD(0.05, momentum=0.9),
    ],
    ids=["adam", "adamw", "sgd"],
)
def test_budget_is_met_under_any_optimizer(wide_cnn, data, optimizer):
    history = compile_and_fit(
        codeq_keras.quantize_model(wide_cnn),
        data,
        epochs=EPOCHS,
        optimizer=optimizer,
        callbacks=[CompressionBudget(relative_bops=0.05)],
    )

    # 0.1 points: what a budget promises.
    assert history.history["relative_bops"][-1] == pytest.approx(0.05, abs=1e-3)


LEARNED = codeq_keras.CoDeQConfig(bit_width="learned")
UNIFORM = codeq_keras.CoDeQConfig(level_grid="uniform", axis=-1)
TOLERANCES = {"sparsity": 5e-3, "bits_per_weight": 0.03, "size_bytes": 15.0}


def cosine(peak):
    return keras.optimizers.schedules.CosineDecay(peak, 4 * EPOCHS)


@pytest.mark.parametrize(
    ("budget", "config", "optimizer", "jit_compile"),
    [
        ({"sparsity": 0.9}, UNIFORM, ("Adam", cosine(3e-3), {}), True),
        ({"bits_per_weight": 1.0}, LEARNED, ("Adam", 1e-3, {}), False),
        (
            {"bits_per_weight": 2.0},
            codeq_keras.CoDeQConfig(bit_width=8),
            ("AdamW", cosine(3e-3), {"weight_decay": 0.01}),
            False,
        ),
        (
            {"size_bytes": 1500},
            codeq_keras.CoDeQConfig(),
            ("SGD", 0.05, {"momentum": 0.9}),
            True,
        ),
        ({"size_bytes": 1500}, LEARNED, ("Adam", 1e-3, {}), False),
    ],
    ids=["sparsity", "bits-learned", "bits-8", "size-4", "size-learned"],
)
def test_budget_is_met(wide_cnn, data, budget, config, optimizer, jit_compile):
    name, rate, arguments = optimizer
    history = compile_and_fit(
        codeq_keras.quantize_model(wide_cnn, config),
        data,
        epochs=EPOCHS,
        optimizer=getattr(keras.optimizers, name)(rate, **arguments),
        jit_compile=jit_compile,
        callbacks=[CompressionBudget(**budget)],
    )

    [(name, target)] = budget.items()
    reached = history.history[name][-1]
    # What a budget promises: 1 % of the bytes, the others absolute.
    assert reached == pytest.approx(target, abs=TOLERANCES[name])


def test_sparsity_budget_is_met_with_learned_bits(wide_cnn, data):
    qmodel = codeq_keras.quantize_model(
        wide_cnn,
        codeq_keras.CoDeQConfig(bit_width="learned", level_grid="uniform"),
    )

    history = compile_and_fit(
        qmodel,
        data,
        epochs=EPOCHS,
        callbacks=[CompressionBudget(sparsity=0.7)],
    )

    assert history.history["sparsity"][-1] == pytest.approx(0.7, abs=0.01)


def test_missed_budget_warns_with_the_value_reached(qmodel, data):
    with pytest.warns(UserWarning, match=r"was missed: sparsity is 0\.\d+"):
        compile_and_fit(
            qmodel, data, callbacks=[CompressionBudget(sparsity=0.99)]
        )


def test_budget_that_cannot_be_met_says_why(wide_cnn, data):
    qmodel = codeq_keras.quantize_model(wide_cnn, overrides={"dense": None})

    reason = "would still be .*: kernels left in float"
    with pytest.warns(UserWarning, match=reason):
        compile_and_fit(
            qmodel, data, callbacks=[CompressionBudget(size_bytes=200)]
        )


def test_restored_epoch_is_held_against_the_budget(wide_cnn, data):
    stop = keras.callbacks.EarlyStopping(
        "relative_bops", mode="max", patience=99, restore_best_weights=True
    )

    with pytest.warns(UserWarning, match="restored an earlier epoch"):
        compile_and_fit(
            codeq_keras.quantize_model(wide_cnn),
            data,
            epochs=EPOCHS,
            callbacks=[CompressionBudget(relative_bops=0.05), stop],
        )


def test_budget_ends_with_its_fit(qmodel, data):
    budget = CompressionBudget(sparsity=0.7)
    compile_and_fit(qmodel, data, epochs=EPOCHS, callbacks=[budget])

    history = qmodel.fit(*data, verbose=0)

    assert qmodel.regularizer.budget is None
    # The penalty of a budget is far larger than the cross entropy.
    assert history.history["loss"][0] < 5


def test_logs_reach_history_progress_bar_and_csv(
    qmodel, data, tmp_path, capsys
):
    path = tmp_path / "log.csv"
    qmodel.compile("adam", loss="sparse_categorical_crossentropy")

    history = qmodel.fit(
        *data,
        epochs=2,
        verbose=2,
        callbacks=[CompressionLogger(), keras.callbacks.CSVLogger(str(path))],
    )

    report = codeq_keras.report(qmodel)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for name in LOGGED:
        assert history.history[name][-1] == getattr(report, name)
        assert float(rows[-1][name]) == getattr(report, name)
        assert name in capsys.readouterr().out or name != LOGGED[0]


def test_callbacks_refuse_a_plain_model(cnn, data):
    with pytest.raises(ValueError, match="quantize_model"):
        compile_and_fit(cnn, data, callbacks=[CompressionLogger()])


def test_bops_budget_needs_a_fixed_input_size(data):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(3, 3, name="conv")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    qmodel = codeq_keras.quantize_model(model)

    with pytest.raises(ValueError, match=r"not fixed for \['conv/kernel'\]"):
        compile_and_fit(
            qmodel, data, callbacks=[CompressionBudget(relative_bops=0.05)]
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Exactly one of"),
        ({"bits_per_weight": 32}, r"must be in \(0, 32\)"),
        ({"size_bytes": 0}, "Received: size_bytes=0"),
        ({"sparsity": 0.5, "relative_bops": 0.1}, "Exactly one of"),
        ({"sparsity": 1.0}, "Received: sparsity=1.0"),
        ({"relative_bops": 5}, "Received: relative_bops=5"),
    ],
)
def test_bad_budget_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CompressionBudget(**arguments)


# --- Penalties --------------------------------------------------------------


def penalty_of(cnn, **penalties):
    qmodel = codeq_keras.quantize_model(
        cnn,
        codeq_keras.CoDeQConfig(bit_width="learned"),
        regularizer=codeq_keras.CompressionRegularizer(**penalties),
    )
    penalty = qmodel.regularizer.penalty(qmodel.kernels, progress=0.0)
    return None if penalty is None else float(penalty)


def test_penalties_are_those_of_the_paper(cnn):
    # Three kernels with both logits at 3.
    assert penalty_of(cnn) is None
    assert penalty_of(cnn, dead_zone_penalty=0.01) == pytest.approx(
        0.01 * 3 * 3.0**2
    )
    assert penalty_of(cnn, bit_width_penalty=0.1) == pytest.approx(
        0.1 * 3 * 3.0**2
    )


def test_density_penalty_is_the_fraction_of_nonzero_weights(cnn):
    expected = (
        1
        - codeq_keras.report(
            codeq_keras.quantize_model(
                cnn, codeq_keras.CoDeQConfig(bit_width=8)
            )
        ).sparsity
    )

    assert penalty_of(cnn, density_penalty=2.0) == pytest.approx(2 * expected)


def test_penalties_do_not_enter_val_loss(cnn, data):
    qmodel = codeq_keras.quantize_model(
        cnn,
        regularizer=codeq_keras.CompressionRegularizer(dead_zone_penalty=1e6),
    )
    qmodel.compile("sgd", loss="sparse_categorical_crossentropy")

    assert qmodel.evaluate(*data, verbose=0) < 100


def test_negative_penalty_is_refused():
    with pytest.raises(ValueError, match="Received: density_penalty=-1"):
        codeq_keras.CompressionRegularizer(density_penalty=-1)


# --- The logit and its schedule ---------------------------------------------


@pytest.mark.parametrize("move", [1e-8, 1e-3, 10.0])
def test_logit_moves_alike_at_any_learning_rate(move):
    logit = Logit(3.0)
    logit.build()

    for step in range(1, 11):
        logit.probe.assign(logit.probe - move)
        logit.advance(rate=0.1, step=step)

    # Ten moves of one rate each, up to the rounding of the probe.
    assert float(logit.value[0]) == pytest.approx(2.0, abs=1e-3)


def test_logit_rests_without_a_gradient():
    logit = Logit(3.0)
    logit.build()

    for step in range(5):
        logit.advance(rate=0.1, step=step)

    assert float(logit.value[0]) == 3.0


def test_schedule_anneals_over_the_whole_training():
    schedule = TrainingSchedule()
    schedule.start(num_steps=1000)

    rates = []
    for _ in range(1000):
        rates.append(float(schedule.logit_rate()))
        schedule.advance()

    assert rates[0] == pytest.approx(16 / 1000)
    assert np.all(np.diff(rates) <= 0)
    assert rates[-1] == pytest.approx(0.03 * rates[0])
    # 8 to 20 units of travel; the logits need 2.5.
    assert 8 < sum(rates) < 20


@pytest.mark.parametrize("initial_epoch", [0, 2])
def test_fit_sets_the_schedule_to_its_length(qmodel, data, initial_epoch):
    qmodel.compile("adam", loss="sparse_categorical_crossentropy")

    qmodel.fit(
        *data, batch_size=16, epochs=3, initial_epoch=initial_epoch, verbose=0
    )

    assert int(qmodel.schedule.num_steps) == 4 * (3 - initial_epoch)
    assert float(qmodel.schedule.progress()) == 1.0


def test_resumed_training_goes_on_with_its_schedule(qmodel, data, tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def train(model, *callbacks, initial_epoch=0):
        model.compile("adam", loss="sparse_categorical_crossentropy")
        model.fit(
            *data,
            batch_size=16,
            epochs=5,
            verbose=0,
            initial_epoch=initial_epoch,
            callbacks=list(callbacks),
        )

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        train(qmodel, backup, Interrupt())
    qmodel.save(tmp_path / "interrupted.keras")
    loaded = keras.saving.load_model(tmp_path / "interrupted.keras")

    train(loaded, initial_epoch=2)
    fresh = codeq_keras.quantize_model(
        codeq_keras.strip_quantizers(qmodel),
    )
    train(fresh, keras.callbacks.BackupAndRestore(tmp_path / "backup"))

    for resumed in (loaded, fresh):
        assert int(resumed.schedule.first_step) == 0
        assert int(resumed.schedule.num_steps) == 4 * 5
        assert int(resumed.schedule.step) == 4 * 5


def test_budget_tightens_in_one_epoch_of_unknown_length(wide_cnn, data):
    qmodel = codeq_keras.quantize_model(wide_cnn)
    qmodel.compile(
        "adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    def batches():
        for _ in range(400):
            yield data[0][:16], data[1][:16]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras notes the end of a generator.
        history = qmodel.fit(
            batches(),
            verbose=0,
            callbacks=[CompressionBudget(relative_bops=0.05)],
        )

    assert history.history["relative_bops"][-1] == pytest.approx(0.05, abs=1e-3)


def test_schedule_learns_the_length_of_an_unsized_dataset(qmodel, data):
    x, y = data

    def batches():
        while True:
            yield x[:16], y[:16]

    qmodel.compile("adam", loss="sparse_categorical_crossentropy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras notes the end of a generator.
        qmodel.fit(batches(), steps_per_epoch=5, epochs=2, verbose=0)

    assert int(qmodel.schedule.num_steps) == 5 * 2


def test_interrupted_fit_leaves_no_budget_behind(qmodel, data):
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_and_fit(
            qmodel,
            data,
            callbacks=[CompressionBudget(sparsity=0.7), Interrupt()],
        )

    assert qmodel.regularizer.budget is None


def test_second_fit_holds_the_budget(wide_cnn, data):
    qmodel = codeq_keras.quantize_model(wide_cnn)
    for _ in range(2):
        history = compile_and_fit(
            qmodel,
            data,
            epochs=EPOCHS,
            callbacks=[CompressionBudget(sparsity=0.6)],
        )

    assert history.history["sparsity"][-1] == pytest.approx(0.6, abs=0.01)


def test_two_budgets_in_one_fit_are_refused(qmodel, data):
    budgets = [CompressionBudget(sparsity=0.6), CompressionBudget(sparsity=0.7)]

    with pytest.raises(ValueError, match="Received: two"):
        compile_and_fit(qmodel, data, callbacks=budgets)


def test_budget_without_quantized_kernels_is_refused(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn, overrides={"": None})

    with pytest.raises(ValueError, match="Check `overrides`"):
        compile_and_fit(
            qmodel, data, callbacks=[CompressionBudget(sparsity=0.6)]
        )
