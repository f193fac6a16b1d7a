"""The rival without samples, and the table."""

import keras
import numpy as np
import post_training
import pytest

import codeq_keras


def test_nearest_level_keeps_the_largest_weights_for_the_bops():
    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [keras.Input((32,)), keras.layers.Dense(64, name="head")]
    )
    samples = np.random.default_rng(0).normal(size=(64, 32))
    form = post_training.Form(4, 0.05)
    qmodel = post_training.nearest_level(net, samples, form)
    assert codeq_keras.report(qmodel).relative_bops == pytest.approx(
        0.05, abs=0.002
    )
    [weight] = codeq_keras.quantized_weights(qmodel).values()
    magnitudes = np.abs(net.get_layer("head").kernel.numpy())
    is_zero = weight.codes == 0
    assert magnitudes[is_zero].max() <= magnitudes[~is_zero].min()


def test_table_has_a_row_for_each_form():
    lines = [
        {
            "form": form,
            "float": 0.9,
            "nearest": 0.5,
            "fitted": score,
            "relative_bops": 0.05,
            "sparsity": 0.6,
            "seconds": 2.0,
        }
        for form in post_training.FORMS
        for score in (0.8, 0.82)
    ]
    text = post_training.section("fashion_resnet8", lines)
    assert text.count("| 81.00 ± 1.41 |") == len(post_training.FORMS)
    assert "| 4 bits, pruned | 5.0% |" in text
