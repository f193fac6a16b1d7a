"""`ParetoCheckpoint` keeps what is not dominated, whatever happens."""

import json

import keras
import numpy as np
import pytest

import codeq_keras
from codeq_keras import ParetoCheckpoint


@pytest.fixture
def qmodel():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, name="dense")]
    )
    model = codeq_keras.quantize_model(model)
    model.compile("sgd", "mse")
    return model


def run(checkpoint, model, metrics_and_logits):
    """Ends epochs with a given metric and dead zone."""
    checkpoint.set_model(model)
    checkpoint.on_train_begin()
    for epoch, (metric, logit) in enumerate(metrics_and_logits):
        model.kernels[0].quantizer.assign_logits(dead_zone=logit)
        logs = {} if metric is None else {"val_accuracy": metric}
        checkpoint.on_epoch_end(epoch, logs)
    checkpoint.on_train_end()


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def test_dominated_models_are_removed(qmodel, tmp_path):
    checkpoint = ParetoCheckpoint(tmp_path / "new" / "folder")

    # A small logit is a wide dead zone, few BOPs.
    run(checkpoint, qmodel, [(0.8, 2.0), (0.7, 0.5), (0.6, 1.0), (0.9, 1.0)])

    # The third is dominated by the second, the first by the fourth.
    assert [p.epoch for p in checkpoint.points] == [1, 3]
    kept = [p.file for p in checkpoint.points]
    assert files(checkpoint.folder) == sorted([*kept, "index.json"])


def test_files_hold_what_the_index_says(qmodel, tmp_path):
    checkpoint = ParetoCheckpoint(tmp_path)
    run(checkpoint, qmodel, [(0.9, 2.0), (0.7, 0.5)])
    index = json.loads((tmp_path / "index.json").read_text())

    assert len(index["models"]) == 2
    for entry in index["models"]:
        model = keras.saving.load_model(tmp_path / entry["file"])
        report = codeq_keras.report(model)
        assert report.relative_bops == entry["relative_bops"]


def test_later_training_competes_with_the_folder(qmodel, tmp_path):
    run(ParetoCheckpoint(tmp_path), qmodel, [(0.8, 2.0), (0.7, 0.5)])

    later = ParetoCheckpoint(tmp_path)
    run(later, qmodel, [(0.75, 2.0), (0.85, 2.0)])

    assert [p.metric for p in later.points] == [0.7, 0.85]
    assert len(files(tmp_path)) == 3


def test_lower_is_better_for_a_loss(qmodel, tmp_path):
    checkpoint = ParetoCheckpoint(tmp_path, monitor="val_loss")
    checkpoint.set_model(qmodel)
    checkpoint.on_train_begin()
    for epoch, loss in enumerate([3.0, 1.0, 2.0, float("nan")]):
        checkpoint.on_epoch_end(epoch, {"val_loss": loss})

    assert [p.metric for p in checkpoint.points] == [1.0]


@pytest.mark.parametrize("call", range(1, 5))
def test_interruption_leaves_a_whole_folder(
    qmodel, tmp_path, monkeypatch, call
):
    run(ParetoCheckpoint(tmp_path), qmodel, [(0.8, 2.0)])
    calls = 0

    def interrupt_at_call(function):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        # Each step that changes the folder, in its order.
        path_class = type(tmp_path)
        patch.setattr("os.replace", interrupt_at_call(__import__("os").replace))
        for name in ("write_text", "unlink"):
            changed = interrupt_at_call(getattr(path_class, name))
            patch.setattr(path_class, name, changed)
        with pytest.raises(KeyboardInterrupt):
            run(ParetoCheckpoint(tmp_path), qmodel, [(0.9, 2.0)])

    resumed = ParetoCheckpoint(tmp_path)
    assert len(resumed.points) == 1
    assert keras.saving.load_model(resumed.path(resumed.points[0]))
    run(resumed, qmodel, [(0.95, 2.0)])
    models = [f for f in files(tmp_path) if f.startswith("0")]
    assert resumed.points[0].file in models
    # At most the file that was written right before the interruption.
    assert len(models) <= 2


def test_deleted_file_no_longer_competes(qmodel, tmp_path):
    first = ParetoCheckpoint(tmp_path)
    run(first, qmodel, [(0.9, 2.0)])
    first.path(first.points[0]).unlink()

    assert ParetoCheckpoint(tmp_path).points == ()


def test_table_and_picture(qmodel, tmp_path):
    pytest.importorskip("matplotlib")
    checkpoint = ParetoCheckpoint(tmp_path)
    run(checkpoint, qmodel, [(0.9, 2.0), (0.7, 0.5)])

    checkpoint.plot(tmp_path / "front.png")

    assert (tmp_path / "front.png").stat().st_size > 0
    assert len(str(checkpoint).splitlines()) == 3
    assert checkpoint.points[0].file in str(checkpoint)


def test_goes_with_a_fit(qmodel, tmp_path, rng):
    x = rng.normal(size=(64, 8)).astype("float32")
    y = np.tile(x, 2)
    checkpoint = ParetoCheckpoint(tmp_path, monitor="val_loss")

    qmodel.fit(
        x,
        y,
        epochs=3,
        verbose=0,
        validation_data=(x, y),
        callbacks=[
            codeq_keras.BatchNormReestimation([x]),
            checkpoint,
        ],
    )

    point = checkpoint.points[-1]
    model = keras.saving.load_model(checkpoint.path(point))
    assert model.evaluate(x, y, verbose=0) == pytest.approx(point.metric)


def test_missing_metric_is_warned_of(qmodel, tmp_path):
    with pytest.warns(UserWarning, match="no epoch had 'val_accuracy'"):
        run(ParetoCheckpoint(tmp_path), qmodel, [(None, 2.0)])


def test_folder_of_another_metric_is_refused(qmodel, tmp_path):
    run(ParetoCheckpoint(tmp_path), qmodel, [(0.8, 2.0)])

    with pytest.raises(ValueError, match="Received: monitor='val_loss'"):
        ParetoCheckpoint(tmp_path, monitor="val_loss")
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ValueError, match="Choose another folder"):
        ParetoCheckpoint(tmp_path)


def test_unknown_mode_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Received: mode='best'"):
        ParetoCheckpoint(tmp_path, mode="best")


@pytest.mark.parametrize("monitor", [None, 3, ["val_loss"]])
def test_monitor_that_is_no_name_is_refused(tmp_path, monitor):
    with pytest.raises(ValueError, match="`monitor` must be the name"):
        ParetoCheckpoint(tmp_path, monitor=monitor)


def test_model_in_the_place_of_the_folder_is_refused(qmodel):
    with pytest.raises(ValueError, match="`folder` must be a path"):
        ParetoCheckpoint(qmodel)
