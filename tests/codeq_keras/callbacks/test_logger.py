"""CompressionLogger: the numbers of the report in Keras's logs."""

import csv

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


def test_callbacks_refuse_a_plain_model(cnn, data):
    with pytest.raises(ValueError, match="quantize_model"):
        compile_and_fit(cnn, data, callbacks=[CompressionLogger()])
