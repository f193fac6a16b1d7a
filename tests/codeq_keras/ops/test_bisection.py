"""bisected: the place from where on a condition is met."""

import numpy as np
from keras import ops

from codeq_keras.ops.bisection import bisected


def test_ends_close_in_on_each_place():
    places = np.array([0.0, 0.3, 1.0], "float32")

    low, high = bisected(
        lambda middle: middle >= places, ops.zeros(3), ops.ones(3), 10
    )

    low, high = map(ops.convert_to_numpy, (low, high))
    assert np.all((low <= places) & (places <= high))
    np.testing.assert_allclose(high - low, 1 / 2**10)
