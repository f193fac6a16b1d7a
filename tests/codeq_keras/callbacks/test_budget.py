"""CompressionBudget: met by every measure, under any optimizer."""

import math
import warnings

import keras
import pytest
from support.training import compile_and_fit

import codeq_keras
from codeq_keras import CompressionBudget

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

    reason = "`size_bytes` cannot be below .* Kernels in float"
    with pytest.raises(ValueError, match=reason):
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
    assert "budget_penalty" not in history.history


def test_loss_is_that_of_the_task_beside_the_penalty(qmodel, data):
    with pytest.warns(UserWarning, match="was missed"):
        history = compile_and_fit(
            qmodel, data, callbacks=[CompressionBudget(sparsity=0.99)]
        ).history

    # Of two epochs without a change, and with a target 100 times below.
    assert max(history["budget_penalty"]) > 100
    assert max(history["loss"]) < 5


def test_checkpoint_from_before_the_budget_is_warned_of(
    wide_cnn, data, tmp_path
):
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras",
        monitor="relative_bops",
        mode="max",
        save_best_only=True,
    )

    with pytest.warns(UserWarning, match=r"kept epoch \d+ in .*best.keras"):
        compile_and_fit(
            codeq_keras.quantize_model(wide_cnn),
            data,
            epochs=EPOCHS,
            callbacks=[CompressionBudget(relative_bops=0.05), best],
        )


# --- The size of the loss ----------------------------------------------------


def pruned(qmodel, x, y):
    """The history of a compiled model's training to 90 % zeros."""
    return qmodel.fit(
        x,
        y,
        batch_size=16,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[CompressionBudget(sparsity=0.9)],
    ).history


class Scaled(keras.losses.SparseCategoricalCrossentropy):
    def __init__(self, factor, constant=0.0):
        super().__init__(from_logits=True)
        self.factor, self.constant = factor, constant

    def call(self, y_true, y_pred):
        return self.factor * super().call(y_true, y_pred) + self.constant


@pytest.mark.parametrize(
    ("loss", "optimizer"),
    [
        (Scaled(1e-4), keras.optimizers.Adam(1e-3)),
        (Scaled(1e4), keras.optimizers.Adam(1e-3)),
        (Scaled(1.0, 1e3), keras.optimizers.AdamW(1e-3)),
        (Scaled(1e4), keras.optimizers.SGD(0.05e-4, momentum=0.9)),
        (Scaled(1e4), keras.optimizers.Adam(1e-3, global_clipnorm=1.0)),
        (
            Scaled(1),
            keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
        ),
    ],
    ids=["adam-tiny", "adam-huge", "constant", "sgd", "clipped", "scaled"],
)
def test_budget_is_met_for_a_loss_of_any_size(wide_cnn, data, loss, optimizer):
    qmodel = codeq_keras.quantize_model(wide_cnn)
    qmodel.compile(optimizer, loss, metrics=["accuracy"])

    history = pruned(qmodel, *data)

    # Half a point: what a sparsity budget promises.
    assert history["sparsity"][-1] == pytest.approx(0.9, abs=5e-3)
    # All of 64 samples but a few, as with a loss of the usual size.
    assert history["accuracy"][-1] > 0.9


def test_loss_weights_leave_the_budget_alone(data):
    inputs = keras.Input((8, 8, 3))
    hidden = keras.layers.Conv2D(16, 3, activation="relu")(inputs)
    hidden = keras.layers.Conv2D(32, 3, activation="relu")(hidden)
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    outputs = [keras.layers.Dense(3, name=name)(hidden) for name in "ab"]
    qmodel = codeq_keras.quantize_model(keras.Model(inputs, outputs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile("adam", [loss, loss], loss_weights=[1e3, 1e-3])

    history = pruned(qmodel, data[0], [data[1], data[1]])

    assert history["sparsity"][-1] == pytest.approx(0.9, abs=5e-3)


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
        ({"bits_per_weight": 32}, r"must be a number in \(0, 32\)"),
        ({"size_bytes": 0}, "Received: size_bytes=0"),
        ({"sparsity": 0.5, "relative_bops": 0.1}, "Exactly one of"),
        ({"sparsity": 1.0}, "Received: sparsity=1.0"),
        ({"sparsity": "0.8"}, "must be a number .* Received: sparsity='0.8'"),
        ({"size_bytes": [400]}, "must be a number .* Received: size_bytes="),
        ({"relative_bops": 5}, "Received: relative_bops=5"),
    ],
)
def test_bad_budget_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CompressionBudget(**arguments)


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

    with pytest.raises(ValueError, match="Keep one"):
        compile_and_fit(qmodel, data, callbacks=budgets)


def test_budget_without_quantized_kernels_is_refused(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn, overrides={"": None})

    with pytest.raises(ValueError, match="Check `overrides`"):
        compile_and_fit(
            qmodel, data, callbacks=[CompressionBudget(sparsity=0.6)]
        )


# --- `max_sparsity`: no kernel is emptied for a budget -----------------------

TARGET = 0.7
LIMIT = 0.72


def fit_to_budget(model, data, **limit):
    qmodel = codeq_keras.quantize_model(model)
    compile_and_fit(
        qmodel,
        data,
        epochs=EPOCHS,
        callbacks=[CompressionBudget(sparsity=TARGET, **limit)],
    )
    return codeq_keras.report(qmodel)


def test_budget_is_met_without_emptying_a_kernel(wide_cnn, data):
    free = fit_to_budget(wide_cnn, data)
    limited = fit_to_budget(wide_cnn, data, max_sparsity=LIMIT)

    # Otherwise the limit has nothing to do here.
    assert max(kernel.sparsity for kernel in free.layers) > LIMIT + 5e-3
    assert max(kernel.sparsity for kernel in limited.layers) <= LIMIT + 5e-3
    # Half a point: what a sparsity budget promises.
    assert limited.sparsity == pytest.approx(TARGET, abs=5e-3)


def penalty_of(qmodel, **settings):
    qmodel.regularizer.set_budget("sparsity", **settings)
    return float(
        qmodel.regularizer.budget_penalty(qmodel.kernels, progress=1.0)
    )


def test_budget_does_not_see_what_a_kernel_lacks(cnn):
    qmodel = codeq_keras.quantize_model(cnn)
    for kernel in qmodel.kernels:
        kernel.quantizer.assign_logits(dead_zone=0.3)
    sparsest = codeq_keras.report(qmodel).sparsity

    pushed = penalty_of(qmodel, target=0.5, min_densities=(0.5, 0.5, 0.5))

    # Each kernel counts as half dense: what is left is to push them back,
    # 100 * ln(0.5 / density) ** 2 each.
    assert sparsest > 0.6
    assert pushed > 100 * keras.ops.log(0.5 / 0.4) ** 2


def test_kernels_without_a_rule_are_not_limited(cnn, data):
    qmodel = codeq_keras.quantize_model(cnn)
    budget = CompressionBudget(sparsity=0.7, max_sparsity={"head": 0.5})

    with pytest.warns(UserWarning, match="was missed"):
        compile_and_fit(qmodel, data, callbacks=[budget, Spy()])

    assert Spy.seen == (0.0, 0.0, 0.5)


class Spy(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        Spy.seen = self.model.regularizer.min_densities


def test_budget_out_of_reach_says_the_nearest_value(cnn, data):
    qmodel = codeq_keras.quantize_model(
        cnn, codeq_keras.CoDeQConfig(bit_width="learned", min_bit_width=4)
    )
    budget = CompressionBudget(relative_bops=0.01, max_sparsity=0.5)

    # Half of the weights at the fewest bits, of 32.
    reason = f"`relative_bops` cannot be below {0.5 * 4 / 32} here"
    with pytest.raises(ValueError, match=reason):
        compile_and_fit(qmodel, data, callbacks=[budget])


def test_zeros_beyond_the_limit_are_warned_of(cnn, data):
    # 3 uniform bits round many weights to zero without any pruning.
    qmodel = codeq_keras.quantize_model(
        cnn, codeq_keras.CoDeQConfig(bit_width=3, level_grid="uniform")
    )
    budget = CompressionBudget(relative_bops=0.093, max_sparsity=0.01)

    with pytest.warns(UserWarning, match=r"max_sparsity=0.01` was exceeded"):
        compile_and_fit(qmodel, data, callbacks=[budget])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_sparsity": 0}, r"must be a number in \(0, 1\)"),
        ({"max_sparsity": "0.3"}, "Received: max_sparsity='0.3'"),
        ({"max_sparsity": {"head": None}}, r"Received: .*head'\]=None"),
        (
            {"max_sparsity": {"head": 1.5}},
            r"Received: max_sparsity\['head'\]=1.5",
        ),
        ({"max_sparsity": 0.8}, "Received: sparsity=0.9, max_sparsity=0.8"),
    ],
)
def test_contradictory_limits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CompressionBudget(sparsity=0.9, **arguments)


def test_rule_that_matches_nothing_is_refused(cnn, data):
    budget = CompressionBudget(sparsity=0.5, max_sparsity={"stem": 0.9})

    with pytest.raises(ValueError, match="Every key of `max_sparsity`"):
        compile_and_fit(
            codeq_keras.quantize_model(cnn), data, callbacks=[budget]
        )


def test_budget_of_less_than_a_weight_is_refused(qmodel, data):
    budget = CompressionBudget(relative_bops=1e-6)
    with pytest.raises(ValueError, match=r"`relative_bops` cannot be below"):
        compile_and_fit(qmodel, data, epochs=1, callbacks=[budget])


def test_divergence_is_named_by_logs_budget_report_and_codes(qmodel, data):
    kernel = qmodel.kernels[0]

    class Diverge(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            value = keras.ops.convert_to_numpy(kernel.variable).copy()
            value.flat[0] = float("nan")
            kernel.variable.assign(value)

    words = f"diverged: NaN or infinity in '{kernel.path}'"
    with pytest.warns(UserWarning, match=words):
        history = compile_and_fit(
            qmodel,
            data,
            epochs=1,
            callbacks=[Diverge(), CompressionBudget(relative_bops=0.05)],
        )

    assert math.isnan(history.history["sparsity"][-1])
    assert math.isnan(history.history["relative_bops"][-1])
    words = f"NaN or infinity in '{kernel.path}'"
    for read in (codeq_keras.report, codeq_keras.quantized_weights):
        with pytest.raises(ValueError, match=words):
            read(qmodel)
    with pytest.raises(ValueError, match=words):
        compile_and_fit(
            qmodel,
            data,
            epochs=1,
            callbacks=[CompressionBudget(relative_bops=0.05)],
        )
