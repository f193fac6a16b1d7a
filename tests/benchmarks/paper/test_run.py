"""The paper's recipes run end to end, on images made here."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
from paper import recipes, run

import codeq_keras


def tiny_network(classes: int) -> keras.Model:
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, name="conv")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes, name="dense")(x))


@pytest.fixture
def images(monkeypatch):
    """A recipe of a tiny network, and few images for it."""

    tiny = dataclasses.replace(
        recipes.RECIPES["resnet20"],
        build=tiny_network,
        dataset="shapes",
        epochs=2,
        batch_size=16,
    )
    monkeypatch.setitem(recipes.RECIPES, "tiny", tiny)


def train(folder, *arguments: str) -> dict:
    options = ["--models", "tiny", "--output", str(folder), "--limit", "64"]
    run.main([*options, *arguments])
    return json.loads((run_folder(folder) / "summary.json").read_text())


def run_folder(folder):
    [found] = folder.iterdir()
    return found


@pytest.mark.parametrize("is_adam", [False, True], ids=["sgd", "adamw"])
def test_published_recipe_trains_and_is_recorded(
    images, monkeypatch, tmp_path, is_adam
):
    recipe = dataclasses.replace(recipes.RECIPES["tiny"], is_adam=is_adam)
    monkeypatch.setitem(recipes.RECIPES, "tiny", recipe)

    summary = train(tmp_path)

    assert summary["is_synthetic"]
    assert 2 <= summary["mean_bit_width"] <= 8
    assert "file_bytes" not in summary  # The paper's grid has no integers.
    rows = list(
        csv.DictReader(
            (run_folder(tmp_path) / "history.csv").read_text().splitlines()
        )
    )
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[-1]["sparsity"]) > 0
    model = keras.saving.load_model(run_folder(tmp_path) / "model.keras")
    assert model.quantized_kernels[0].quantizer.config.level_grid == "paper"


@pytest.mark.filterwarnings("ignore:CompressionBudget.*missed")
def test_recipe_with_a_budget_starts_from_float_and_ends_in_a_file(
    images, tmp_path
):
    summary = train(tmp_path, "--relative-bops", "0.1", "--float-epochs", "1")

    assert summary["integers_equal"]
    assert (
        summary["file_bytes"]
        == (run_folder(tmp_path) / "model.tflite").stat().st_size
    )
    assert (run_folder(tmp_path) / "float" / "history.csv").exists()


def test_run_that_was_cut_off_goes_on_and_no_other_takes_its_place(
    images, monkeypatch, tmp_path
):
    arguments = ("--relative-bops", "0.1", "--float-epochs", "1")
    fit = run.train

    def cut_off(model, *args, **kwargs):
        if isinstance(model, codeq_keras.QuantizedModel):
            raise KeyboardInterrupt
        fit(model, *args, **kwargs)

    monkeypatch.setattr(run, "train", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, *arguments)
    with pytest.raises(SystemExit, match="same settings"):
        train(tmp_path, *arguments, "--epochs", "3")
    trained = []
    monkeypatch.setattr(
        run, "train", lambda model, *args, **kwargs: trained.append(model)
    )
    train(tmp_path, *arguments)
    with pytest.raises(SystemExit, match="finished run"):
        train(tmp_path, *arguments)

    # The float network was not trained again.
    [model] = trained
    assert isinstance(model, codeq_keras.QuantizedModel)


def test_logits_shrink_by_the_papers_loss_term_at_their_own_rate():
    recipe = recipes.RECIPES["resnet20"]
    model = recipes.quantized(tiny_network(10), recipe, None)
    optimizer = recipes.optimizer(recipe, 10_000, is_published=True)
    # Without a task, only the loss term moves the logits.
    model.compile(optimizer, lambda y_true, y_pred: 0.0 * y_pred)
    x, y = np.zeros((50, 32, 32, 3), "float32"), np.zeros((50, 10), "float32")

    model.fit(x, y, batch_size=1, verbose=0)

    # Its gradient is 2 * lambda * theta. Momentum takes 10 steps to build up,
    # a fifth of the run.
    rate = 2 * recipe.penalties[0] * recipe.logit_rate
    expected = 3.0 * rate / (1 - recipes.MOMENTUM) * 50
    quantizer = model.quantized_kernels[0].quantizer
    moved = 3.0 - float(quantizer.dead_zone_logit)
    assert moved == pytest.approx(expected, rel=0.25)


def test_resnet50_takes_rgb_and_the_weights_of_keras():
    model = recipes.RECIPES["resnet50"].build(10)
    theirs = keras.applications.ResNet50(
        weights=None, classes=10, classifier_activation=None
    )
    model.set_weights(theirs.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3))
    expected = theirs(
        keras.applications.resnet.preprocess_input(pixels.astype("float32"))
    )

    outputs = model(pixels.astype("float32") / 127.5 - 1)

    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-3)


def test_budget_out_of_range_is_refused_before_training(images):
    with pytest.raises(SystemExit, match="Received: 0"):
        run.main(["--models", "tiny", "--relative-bops", "0"])


def test_network_that_starts_trained_asks_for_weights():
    with pytest.raises(SystemExit, match="--weights FILE"):
        run.main(["--models", "resnet50"])
