"""Training as published: `level_grid="paper"` with penalties on the logits."""

import keras
import numpy as np
import pytest
from support.training import compile_and_fit

import codeq_keras
from codeq_keras import CoDeQConfig, CompressionRegularizer

PAPER = CoDeQConfig(bit_width="learned", min_bit_width=2, level_grid="paper")
MOMENTUM = 0.9
STEPS = 10


def quantized(model, config=PAPER, **penalties):
    return codeq_keras.quantize_model(
        model, config, regularizer=CompressionRegularizer(**penalties)
    )


def with_logits_apart(weights, logits):
    """The paper's optimizer: the logits have a learning rate of their own."""
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(weights, {".*_logit/.*": logits})
    )


def no_loss(y_true, y_pred):
    return 0.0 * keras.ops.sum(y_pred)


def fit_without_task(qmodel, data, optimizer):
    x, y = data
    qmodel.compile(optimizer, loss=no_loss)
    qmodel.fit(x[:STEPS], y[:STEPS], batch_size=1, verbose=0)


def dead_zone_logits(qmodel):
    return [float(k.quantizer.dead_zone_logit) for k in qmodel.kernels]


def bit_width_logits(qmodel):
    return [float(k.quantizer.bit_width_logit) for k in qmodel.kernels]


def decayed(penalty, rate, start=3.0):
    """A logit under SGD with momentum and the penalty alone, in NumPy."""
    logit, velocity = start, 0.0
    for _ in range(STEPS):
        velocity = MOMENTUM * velocity - rate * 2 * penalty * logit
        logit += velocity
    return logit


@pytest.mark.parametrize("apart", [False, True], ids=["one", "apart"])
def test_penalty_decays_the_logits_as_sgd_decays_a_weight(cnn, data, apart):
    qmodel = quantized(cnn, dead_zone_penalty=0.02, bit_width_penalty=0.1)
    optimizer = keras.optimizers.SGD(0.05, momentum=MOMENTUM)
    if apart:
        optimizer = with_logits_apart(keras.optimizers.Adam(), optimizer)

    fit_without_task(qmodel, data, optimizer)

    # Ten steps in float32.
    np.testing.assert_allclose(
        dead_zone_logits(qmodel), decayed(0.02, 0.05), rtol=1e-5
    )
    np.testing.assert_allclose(
        bit_width_logits(qmodel), decayed(0.1, 0.05), rtol=1e-5
    )


def test_weight_decay_of_the_kernels_spares_logits_set_apart(cnn, data):
    qmodel = quantized(cnn)
    before = np.array(qmodel.kernels[0].variable)
    weights = keras.optimizers.SGD(0.1, weight_decay=0.5)

    fit_without_task(
        qmodel, data, with_logits_apart(weights, keras.optimizers.SGD(0.1))
    )

    np.testing.assert_allclose(
        np.array(qmodel.kernels[0].variable),
        before * (1 - 0.1 * 0.5) ** STEPS,
        rtol=1e-5,
    )
    assert dead_zone_logits(qmodel) == [3.0] * 3
    assert bit_width_logits(qmodel) == [3.0] * 3


def test_sparsity_grows_with_the_penalty_and_bits_fall(cnn, data):
    reports = []
    for penalty in (0.0, 0.06, 0.2):
        qmodel = quantized(
            cnn, dead_zone_penalty=penalty, bit_width_penalty=penalty
        )
        compile_and_fit(
            qmodel,
            data,
            epochs=10,
            optimizer=keras.optimizers.SGD(0.03, momentum=MOMENTUM),
        )
        reports.append(codeq_keras.report(qmodel))

    sparsities = [report.sparsity for report in reports]
    bits = [report.mean_bit_width for report in reports]
    assert sparsities[0] < sparsities[1] < sparsities[2]
    assert bits[0] > bits[1] > bits[2]


def test_saved_model_trains_on_as_published(cnn, data, tmp_path):
    qmodel = quantized(cnn, dead_zone_penalty=0.02)
    optimizer = keras.optimizers.SGD(0.05, momentum=MOMENTUM)
    fit_without_task(qmodel, data, optimizer)
    qmodel.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(
        tmp_path / "model.keras", custom_objects={"no_loss": no_loss}
    )
    middle = dead_zone_logits(loaded)
    fit_without_task(
        loaded, data, keras.optimizers.SGD(0.05, momentum=MOMENTUM)
    )

    assert middle == dead_zone_logits(qmodel)
    np.testing.assert_allclose(
        dead_zone_logits(loaded),
        [decayed(0.02, 0.05, start=logit) for logit in middle],
        rtol=1e-5,
    )


def test_budget_names_what_to_use_instead(cnn, data):
    qmodel = codeq_keras.quantize_model(
        cnn, overrides={"conv": CoDeQConfig(level_grid="paper")}
    )

    with pytest.raises(
        ValueError, match=r"\['conv/kernel'\].*`CompressionRegularizer`"
    ):
        compile_and_fit(
            qmodel,
            data,
            callbacks=[codeq_keras.CompressionBudget(sparsity=0.5)],
        )


# --- Two bits ---------------------------------------------------------------


@pytest.mark.parametrize("level_grid", ["dead_zone", "uniform"])
def test_two_bits_train_ternary_with_the_mean_kept_magnitude(
    cnn, data, level_grid
):
    qmodel = codeq_keras.quantize_model(
        cnn, CoDeQConfig(bit_width=2, level_grid=level_grid)
    )
    compile_and_fit(qmodel, data)

    weights = codeq_keras.quantized_weights(qmodel)

    for kernel in qmodel.kernels:
        latent = np.array(kernel.variable)
        weight = weights[kernel.path]
        kept = np.abs(latent)[weight.codes != 0]
        assert set(np.unique(weight.codes)) <= {-1, 0, 1}
        # float32 sums in another order.
        np.testing.assert_allclose(weight.scale, kept.mean(), rtol=1e-5)


def test_two_bits_of_the_paper_are_the_bound(cnn):
    qmodel = codeq_keras.quantize_model(
        cnn, CoDeQConfig(bit_width=2, level_grid="paper")
    )

    stripped = codeq_keras.strip_quantizers(qmodel)

    kernel = np.abs(np.array(stripped.get_layer("conv").kernel))
    bound = float(qmodel.kernels[0].quantizer.abs_bound)
    # The published code adds 1e-8 to the spacing.
    np.testing.assert_allclose(kernel[kernel > 0], bound, rtol=1e-6)
