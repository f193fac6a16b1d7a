"""H5 and SavedModel reload exactly; the broken formats say so."""

import numpy as np
import pytest
import tf_keras
from support.qat_models import compiled, images, layers, quantize, sequential

from codeq_keras import CoDeQConfig, CompressionRegularizer
from codeq_keras.tfmot import load_model, quantize_scope, quantized_weights
from codeq_keras.tfmot.weight_quantizer import kernel_states

FORMATS = [
    pytest.param("model.h5", id="h5"),
    pytest.param("folder", id="saved_model"),
]
QUICK_FORMATS = [
    pytest.param("model.h5", id="h5"),
    pytest.param("folder", id="saved_model", marks=pytest.mark.slow),
]


def save(model, path):
    model.save(path, save_format="h5" if path.suffix == ".h5" else "tf")


@pytest.mark.parametrize("name", FORMATS)
def test_model_reloads_exactly(trained, tmp_path, name):
    model, x, _ = trained
    save(model, tmp_path / name)

    loaded = load_model(tmp_path / name)

    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    expected = quantized_weights(model)
    for path, weight in quantized_weights(loaded).items():
        np.testing.assert_array_equal(weight.codes, expected[path].codes)
        assert weight.bit_width == expected[path].bit_width


@pytest.mark.parametrize("name", QUICK_FORMATS)
def test_order_of_the_weights_survives(tmp_path, name):
    model = quantize(
        sequential(
            layers.Conv2D(2, 3), layers.Conv2D(4, 3), layers.Conv2D(4, 1)
        ),
        CoDeQConfig(bit_width="learned"),
    )
    save(model, tmp_path / name)

    loaded = load_model(tmp_path / name)

    def names(some_model):
        # The scope in front differs: in a new model the layer was built first.
        return [weight.name.split("/")[1:] for weight in some_model.weights]

    assert names(loaded) == names(model)
    np.testing.assert_equal(loaded.get_weights(), model.get_weights())


@pytest.mark.parametrize("name", QUICK_FORMATS)
def test_training_continues_after_reload(tmp_path, name, rng):
    x, y = images(rng, 32)
    model = compiled(
        quantize(
            sequential(
                layers.Conv2D(4, 3, name="c"),
                layers.Flatten(),
                layers.Dense(3, activation="softmax"),
            ),
            regularizer=CompressionRegularizer(dead_zone_penalty=0.1),
        )
    )
    model.fit(x, y, epochs=1, batch_size=16, verbose=0)
    save(model, tmp_path / name)

    loaded = load_model(tmp_path / name)
    penalty = float(sum(loaded.losses))
    loaded.fit(x, y, epochs=1, batch_size=16, verbose=0)

    assert penalty == pytest.approx(float(sum(model.losses)))
    [state] = kernel_states(loaded.get_layer("quant_c"))
    assert int(state.schedule.step) == 4


def test_weights_of_a_checkpoint_load_into_a_new_model(trained, tmp_path):
    model, x, _ = trained
    model.save_weights(tmp_path / "checkpoint")
    with quantize_scope():
        copy = tf_keras.models.clone_model(model)

    copy.load_weights(tmp_path / "checkpoint")

    np.testing.assert_array_equal(
        copy.predict(x, verbose=0), model.predict(x, verbose=0)
    )


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_broken_formats_are_refused_and_the_working_ones_named(name):
    with pytest.raises(ValueError, match=r"model\.h5.*save_format"):
        load_model(name)


def test_missing_file_is_named():
    with pytest.raises(ValueError, match=r"Received: 'nowhere\.h5'"):
        load_model("nowhere.h5")
