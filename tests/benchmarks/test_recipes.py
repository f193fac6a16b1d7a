"""The paper's recipes run end to end, on images made here."""

import csv
import dataclasses
import json
import sys

import keras
import numpy as np
import pytest
import recipes
from datasets import shapes


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
        x, y = zip(*shapes.generate(split, 64, image_size=32), strict=True)
        return np.stack(x).astype("float32") / 127.5 - 1.0, np.array(y)

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
    assert model.quantizers[0].config.level_grid == "paper"


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


def test_penalties_are_decays_of_the_logits_as_in_an_l2_term():
    recipe = recipes.RECIPES["resnet20"]
    optimizer = recipes.optimizer(recipe, 100, is_published=True)
    theta = keras.Variable(3.0, name="dead_zone_logit")
    optimizer.build([theta])

    steps = 5
    for _ in range(steps):
        optimizer.apply([np.zeros((), "float32")], [theta])

    # Each step decays by `rate / (1 - momentum)` times lambda; the cosine has
    # hardly begun.
    rate = recipe.logit_rate / (1 - recipes.MOMENTUM)
    expected = 3.0 * (1 - rate * recipe.dead_zone_penalty) ** steps
    assert 3.0 - float(theta) == pytest.approx(3.0 - expected, rel=0.01)


def test_images_are_moved_and_mirrored_but_not_changed():
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
    batches = recipes.Batches(x, np.arange(32), 32, augment=True)

    moved, labels = batches[0]

    assert sorted(labels) == list(range(32))
    for image, label in zip(moved, labels, strict=True):
        values = image[image != 0]
        assert np.isin(values, x[label]).all()
        assert len(values) >= 4 * 4 * 3  # Four of eight pixels remain.


def test_network_that_starts_trained_asks_for_weights(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recipes.py", "resnet50"])

    with pytest.raises(SystemExit):
        recipes.main()

    assert "--weights FILE" in capsys.readouterr().err
