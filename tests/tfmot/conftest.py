"""The random numbers and the trained model of the TFMOT tests."""

import numpy as np
import pytest
import tf_keras
from support.qat_models import (
    compiled,
    every_pattern,
    images,
    quantize,
    randomize,
)

from codeq_keras import CoDeQConfig


@pytest.fixture(autouse=True)
def _seed():
    tf_keras.utils.set_random_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def trained():
    """The model of `every_pattern`, trained for some steps, and its data."""
    tf_keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    model = randomize(every_pattern(), rng)
    qat_model = compiled(quantize(model, CoDeQConfig(bit_width="learned")))
    x, y = images(rng)
    qat_model.fit(x, y, epochs=3, verbose=0)
    return qat_model, x, y
