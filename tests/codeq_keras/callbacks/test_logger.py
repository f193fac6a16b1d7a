"""CompressionLogger: the numbers of the report in Keras's logs."""

import csv
import warnings

import keras
import pytest
from support.training import compile_and_fit

import codeq_keras
from codeq_keras import CompressionLogger

LOGGED = ("sparsity", "mean_bit_width", "relative_bops")


@pytest.fixture
def qmodel(cnn):
    return codeq_keras.quantize_model(cnn)


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


@pytest.mark.parametrize("is_last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize(
    "kind", [CompressionLogger, codeq_keras.CompressionBudget]
)
def test_other_callbacks_see_the_numbers_in_any_order(
    cnn, data, tmp_path, kind, is_last
):
    qmodel = codeq_keras.quantize_model(cnn)
    is_budget = kind is codeq_keras.CompressionBudget
    logger = kind(sparsity=0.3) if is_budget else kind()
    stop = keras.callbacks.EarlyStopping("sparsity", mode="max", patience=9)
    others = [
        stop,
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "{sparsity:.4f}.weights.h5", save_weights_only=True
        ),
    ]
    callbacks = [*others, logger] if is_last else [logger, *others]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # The budget is missed.
        history = compile_and_fit(qmodel, data, epochs=1, callbacks=callbacks)

    (sparsity,) = history.history["sparsity"]
    assert stop.best == sparsity
    assert (tmp_path / f"{sparsity:.4f}.weights.h5").exists()
    with (tmp_path / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["sparsity"]) == sparsity
    assert ("budget_penalty" in row) == is_budget


def test_callbacks_refuse_a_plain_model(cnn, data):
    with pytest.raises(ValueError, match="quantize_model"):
        compile_and_fit(cnn, data, callbacks=[CompressionLogger()])
