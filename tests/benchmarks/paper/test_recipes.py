"""The paper's recipes run end to end, on images made here."""

import csv
import dataclasses
import json
import sys

import batches
import keras
import numpy as np
import paper_recipes
import pytest
import recipes
import workloads

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

    def load(name, split, data_dir=None):
        return workloads.load_shapes(split, 64)

    monkeypatch.setattr(recipes.data, "load", load)
    tiny = dataclasses.replace(
        recipes.RECIPES["resnet20"],
        build=tiny_network,
        dataset="shapes",
        epochs=2,
        batch_size=16,
    )
    monkeypatch.setitem(recipes.RECIPES, "tiny", tiny)


def run(monkeypatch, folder, *arguments: str) -> dict:
    command = ["recipes.py", "tiny", "--output", str(folder), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    recipes.main()
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("is_adam", [False, True], ids=["sgd", "adamw"])
def test_published_recipe_trains_and_is_recorded(
    images, monkeypatch, tmp_path, is_adam
):
    recipe = dataclasses.replace(recipes.RECIPES["tiny"], is_adam=is_adam)
    monkeypatch.setitem(recipes.RECIPES, "tiny", recipe)

    summary = run(monkeypatch, tmp_path)

    assert summary["is_synthetic"]
    assert 2 <= summary["mean_bit_width"] <= 8
    assert "file" not in summary  # The paper's grid has no integers.
    rows = list(
        csv.DictReader((tmp_path / "history.csv").read_text().splitlines())
    )
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[-1]["sparsity"]) > 0
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.kernels[0].quantizer.config.level_grid == "paper"


@pytest.mark.filterwarnings("ignore:CompressionBudget.*missed")
def test_recipe_with_a_budget_starts_from_float_and_ends_in_a_file(
    images, monkeypatch, tmp_path
):
    summary = run(
        monkeypatch, tmp_path, "--relative-bops", "0.1", "--float-epochs", "1"
    )

    assert summary["integers_equal"]
    assert summary["file_bytes"] == (tmp_path / "model.tflite").stat().st_size
    assert (tmp_path / "float" / "history.csv").exists()


def test_run_that_was_cut_off_goes_on_and_no_other_takes_its_place(
    images, monkeypatch, tmp_path
):
    arguments = ("--relative-bops", "0.1", "--float-epochs", "1")
    train = recipes.train

    def cut_off(model, *args, **kwargs):
        if isinstance(model, codeq_keras.QuantizedModel):
            raise KeyboardInterrupt
        train(model, *args, **kwargs)

    monkeypatch.setattr(recipes, "train", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path, *arguments)
    with pytest.raises(SystemExit, match="same settings"):
        run(monkeypatch, tmp_path)
    trained = []
    monkeypatch.setattr(
        recipes, "train", lambda model, *args, **kwargs: trained.append(model)
    )
    run(monkeypatch, tmp_path, *arguments)
    with pytest.raises(SystemExit, match="finished run"):
        run(monkeypatch, tmp_path, *arguments)

    # The float network was not trained again.
    [model] = trained
    assert isinstance(model, codeq_keras.QuantizedModel)


def test_logits_shrink_by_the_papers_loss_term_at_their_own_rate():
    recipe = paper_recipes.RECIPES["resnet20"]
    model = paper_recipes.quantized(tiny_network(10), recipe, None)
    optimizer = paper_recipes.optimizer(recipe, 10_000, is_published=True)
    # Without a task, only the loss term moves the logits.
    model.compile(optimizer, lambda y_true, y_pred: 0.0 * y_pred)
    x, y = np.zeros((50, 32, 32, 3), "float32"), np.zeros((50, 10), "float32")

    model.fit(x, y, batch_size=1, verbose=0)

    # Its gradient is 2 * lambda * theta. Momentum takes 10 steps to build up,
    # a fifth of the run.
    rate = 2 * recipe.dead_zone_penalty * recipe.logit_rate
    expected = 3.0 * rate / (1 - paper_recipes.MOMENTUM) * 50
    moved = 3.0 - float(model.kernels[0].quantizer.dead_zone_logit)
    assert moved == pytest.approx(expected, rel=0.25)


def test_images_are_moved_and_mirrored_but_not_changed():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 8, 8, 3)).astype("float32")

    moved = batches.crop_and_mirror(x, rng)

    for before, after in zip(x, moved, strict=True):
        values = after[after != 0]
        assert np.isin(values, before).all()
        assert len(values) >= 4 * 4 * 3  # Four of eight pixels remain.


def test_batches_without_a_seed_are_all_examples_in_order():
    x = np.arange(5)

    found = batches.Batches(x, x, batch_size=2, seed=None)

    assert [list(found[i][0]) for i in range(len(found))] == [
        [0, 1],
        [2, 3],
        [4],
    ]


def test_resnet50_takes_rgb_and_the_weights_of_keras():
    model = paper_recipes.RECIPES["resnet50"].build(10)
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


def test_budget_out_of_range_is_refused_before_training(images, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "tiny", "--relative-bops", "0"])

    with pytest.raises(SystemExit):
        recipes.main()


def test_network_that_starts_trained_asks_for_weights(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recipes.py", "resnet50"])

    with pytest.raises(SystemExit):
        recipes.main()

    assert "--weights FILE" in capsys.readouterr().err
